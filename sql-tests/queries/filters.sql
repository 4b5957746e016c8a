-- equality on text
SELECT flight, origin, dest FROM flights WHERE carrier = 'HA';

-- equality on an integer, and a constant on the left
SELECT carrier, tailnum FROM flights WHERE 1545 = flight AND month = 1;

-- inequality
SELECT count(*) AS n FROM flights WHERE origin <> 'JFK' AND carrier != 'UA';

-- ranges of integers
SELECT count(*) AS n, sum(distance) AS miles FROM flights WHERE distance > 2000 AND distance <= 2500;

-- BETWEEN and NOT BETWEEN
SELECT count(*) AS n FROM flights WHERE dep_delay BETWEEN 60 AND 120 AND arr_delay NOT BETWEEN 0 AND 90;

-- IN and NOT IN
SELECT count(*) AS n FROM flights WHERE dest IN ('SFO', 'LAX', 'SAN') AND carrier NOT IN ('UA', 'AA');

-- LIKE and NOT LIKE
SELECT count(*) AS n FROM flights WHERE tailnum LIKE 'N1_3%' AND tailnum NOT LIKE '%UA';

-- OR under AND, with NOT
SELECT count(*) AS n FROM flights WHERE (origin = 'EWR' OR dest = 'BOS') AND NOT (carrier = 'B6' OR month > 6);

-- arithmetic in a filter
SELECT count(*) AS n FROM flights WHERE arr_delay - dep_delay > 60 AND distance / air_time > 7.5;

-- modulo, and multiplication
SELECT count(*) AS n FROM flights WHERE flight % 7 = 3 AND hour * 60 + minute < 400;

-- order of text, as dates have it
SELECT count(*) AS n FROM flights WHERE time_hour >= '2013-06-01' AND time_hour < '2013-07-01';

-- a filter that nothing passes
SELECT carrier, flight FROM flights WHERE month = 13;

-- a filter that is never true for a missing value, nor its negation
SELECT (SELECT count(*) FROM flights WHERE dep_delay > 0) AS late,
       (SELECT count(*) FROM flights WHERE NOT dep_delay > 0) AS punctual;

-- the whole table
SELECT year, month, day, dep_time, sched_dep_time, dep_delay, arr_time, sched_arr_time, arr_delay, carrier, flight,
       tailnum, origin, dest, air_time, distance, hour, minute, time_hour
FROM flights;
