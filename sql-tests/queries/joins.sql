-- two topics
SELECT a.name, count(*) AS n FROM flights f JOIN airlines a ON f.carrier = a.carrier GROUP BY a.name;

-- a left join, and what has no partner
SELECT p.tailnum IS NULL AS unknown, count(*) AS n FROM flights f LEFT JOIN planes p ON f.tailnum = p.tailnum GROUP BY 1;

-- three topics
SELECT a.name, o.name AS airport, avg(f.arr_delay) AS mean
FROM flights f JOIN airlines a ON f.carrier = a.carrier JOIN airports o ON f.dest = o.faa
WHERE f.month = 7 GROUP BY a.name, o.name;

-- a join on two columns with a range: the same aircraft again on the same day
SELECT count(*) AS n
FROM flights f JOIN flights g ON f.tailnum = g.tailnum AND f.day = g.day AND f.month = g.month
WHERE f.month = 1 AND g.month = 1 AND f.dep_time < g.dep_time;

-- an anti join
SELECT count(*) AS n FROM flights f WHERE NOT EXISTS (SELECT 1 FROM airports a WHERE a.faa = f.dest);

-- a semi join
SELECT count(*) AS n FROM flights WHERE tailnum IN (SELECT tailnum FROM planes WHERE manufacturer LIKE 'BOEING%' AND seats > 200);

-- a full join of aggregates
SELECT coalesce(x.dest, y.origin) AS airport, x.n AS arrivals, y.n AS departures
FROM (SELECT dest, count(*) AS n FROM flights WHERE dest < 'F' GROUP BY dest) x
FULL JOIN (SELECT origin, count(*) AS n FROM flights GROUP BY origin) y ON x.dest = y.origin;

-- UNION ALL, UNION and EXCEPT
SELECT origin AS airport FROM flights WHERE month = 1 UNION SELECT dest FROM flights WHERE month = 1
EXCEPT SELECT faa FROM airports WHERE lat > 40;

-- a scalar subquery
SELECT count(*) AS n FROM flights WHERE air_time > (SELECT avg(air_time) * 3 FROM flights);

-- a correlated subquery
SELECT carrier, max(dep_delay) AS worst FROM flights f
WHERE dep_delay > (SELECT avg(dep_delay) + 500 FROM flights g WHERE g.carrier = f.carrier) GROUP BY carrier;
