-- one key, several aggregates
SELECT carrier, count(*) AS n, avg(arr_delay) AS mean, min(arr_delay) AS least, max(arr_delay) AS most
FROM flights GROUP BY carrier;

-- two keys and HAVING
SELECT origin, dest, count(*) AS n FROM flights GROUP BY origin, dest HAVING count(*) > 2000;

-- distinct values
SELECT DISTINCT origin, carrier FROM flights;

-- counts of distinct values
SELECT month, count(DISTINCT dest) AS dests, count(DISTINCT tailnum) AS tails FROM flights GROUP BY month;

-- ORDER BY with LIMIT over a total order
SELECT carrier, flight, dep_delay, time_hour FROM flights WHERE dep_delay IS NOT NULL
ORDER BY dep_delay DESC, time_hour, carrier, flight LIMIT 50;

-- LIMIT with OFFSET over groups
SELECT dest, count(*) AS n FROM flights GROUP BY dest ORDER BY n DESC, dest LIMIT 10 OFFSET 20;

-- standard deviation and variance
SELECT origin, stddev_samp(air_time) AS spread, var_pop(distance) AS variance FROM flights GROUP BY origin;

-- aggregates with a FILTER
SELECT month, count(*) FILTER (WHERE carrier = 'UA') AS ua, sum(distance) FILTER (WHERE origin = 'JFK') AS jfk
FROM flights GROUP BY month;

-- no group at all
SELECT sum(distance) AS miles, avg(distance / air_time) AS speed, min(time_hour) AS first, max(tailnum) AS last
FROM flights;

-- grouping by an expression
SELECT hour / 6 >= 2 AS afternoon, distance % 2 AS odd, count(*) AS n FROM flights GROUP BY 1, 2;

-- ROLLUP
SELECT origin, carrier, count(*) AS n FROM flights WHERE month = 2 GROUP BY ROLLUP (origin, carrier);
