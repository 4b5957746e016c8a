-- row_number within a group
SELECT carrier, flight, distance, n FROM (
  SELECT carrier, flight, distance, time_hour,
         row_number() OVER (PARTITION BY carrier ORDER BY distance DESC, time_hour, flight, origin, dest) AS n
  FROM flights WHERE month = 3) ranked
WHERE n <= 3;

-- rank and a running total
SELECT origin, month, n, rank() OVER (PARTITION BY origin ORDER BY n DESC) AS place,
       sum(n) OVER (PARTITION BY origin ORDER BY month) AS running
FROM (SELECT origin, month, count(*) AS n FROM flights GROUP BY origin, month) monthly;

-- lag
SELECT month, n, n - lag(n) OVER (ORDER BY month) AS growth
FROM (SELECT month, count(*) AS n FROM flights GROUP BY month) monthly;

-- a moving average
SELECT day, avg(n) OVER (ORDER BY day ROWS BETWEEN 2 PRECEDING AND CURRENT ROW) AS moving
FROM (SELECT day, count(*) AS n FROM flights WHERE month = 5 GROUP BY day) daily;

-- a share of the whole
SELECT carrier, n * 100.0 / sum(n) OVER () AS percent
FROM (SELECT carrier, count(*) AS n FROM flights GROUP BY carrier) totals;

-- common table expressions that build on each other
WITH busy AS (SELECT dest, count(*) AS n FROM flights GROUP BY dest),
     top AS (SELECT dest FROM busy WHERE n > 10000)
SELECT f.origin, count(*) AS n, avg(f.dep_delay) AS mean FROM flights f JOIN top ON f.dest = top.dest GROUP BY f.origin;

-- a common table expression that is used twice, joined with a list of values
WITH hourly AS (SELECT hour, count(*) AS n FROM flights GROUP BY hour)
SELECT v.h, a.n, a.n - b.n AS change
FROM (VALUES (6), (7), (8), (20)) AS v(h) JOIN hourly a ON a.hour = v.h LEFT JOIN hourly b ON b.hour = v.h - 1;
