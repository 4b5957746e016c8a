-- IS NULL
SELECT count(*) AS cancelled FROM flights WHERE dep_time IS NULL;

-- IS NOT NULL beside IS NULL
SELECT carrier, count(*) AS lost FROM flights WHERE dep_time IS NOT NULL AND arr_time IS NULL GROUP BY carrier;

-- counts of columns skip missing values
SELECT count(*) AS n, count(dep_delay) AS departed, count(arr_delay) AS arrived, count(tailnum) AS tails FROM flights;

-- COALESCE and NULLIF
SELECT carrier, sum(coalesce(arr_delay, 1000)) AS total, count(nullif(origin, 'JFK')) AS elsewhere
FROM flights GROUP BY carrier;

-- a missing value is a group of its own
SELECT dep_delay IS NULL AS cancelled, origin, count(*) AS n FROM flights GROUP BY dep_delay IS NULL, origin;

-- CASE over missing values
SELECT CASE WHEN arr_delay IS NULL THEN 'never' WHEN arr_delay > 15 THEN 'late' ELSE 'fine' END AS verdict, count(*) AS n
FROM flights GROUP BY 1;

-- a NULL in the list of NOT IN leaves nothing
SELECT count(*) AS n FROM flights WHERE carrier NOT IN ('UA', NULL);

-- IS DISTINCT FROM
SELECT count(*) AS n FROM flights WHERE dep_delay IS DISTINCT FROM arr_delay;
