-- text becomes a timestamp, and is cut to the day
SELECT date_trunc('day', CAST(time_hour AS TIMESTAMP)) AS day, count(*) AS n FROM flights WHERE month = 1 GROUP BY 1;

-- parts of a timestamp
SELECT date_part('hour', CAST(time_hour AS TIMESTAMP)) AS utc, count(*) AS n FROM flights GROUP BY 1;

-- EXTRACT
SELECT EXTRACT(month FROM CAST(time_hour AS TIMESTAMP)) AS month, sum(distance) AS miles FROM flights GROUP BY 1;

-- comparison of timestamps with an interval
SELECT count(*) AS n FROM flights
WHERE CAST(time_hour AS TIMESTAMP) < CAST('2013-02-01 00:00:00' AS TIMESTAMP) - INTERVAL '7' DAY;

-- a cast to a date
SELECT CAST(CAST(time_hour AS TIMESTAMP) AS DATE) AS day, avg(dep_delay) AS mean FROM flights WHERE month = 12 GROUP BY 1;
