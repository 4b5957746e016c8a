-- functions of text
SELECT upper(origin) AS o, lower(carrier) AS c, length(dest) AS l, count(*) AS n FROM flights WHERE month = 4
GROUP BY upper(origin), lower(carrier), length(dest);

-- parts of text, and concatenation
SELECT substr(tailnum, 1, 2) || '-' || origin AS prefix, count(*) AS n FROM flights WHERE tailnum IS NOT NULL GROUP BY 1;

-- casts between numbers and text
SELECT CAST(month AS VARCHAR) AS m, CAST(count(*) AS DOUBLE) / 1000 > 28 AS busy, count(*) AS n
FROM flights GROUP BY 1;

-- integers divide as numbers do
SELECT sum(distance / 7) AS sevenths, min(hour / 24) AS least, max(minute / 60) AS most FROM flights;

-- rounding, absolute value and powers
SELECT round(abs(arr_delay) / 10.0) AS tens, count(*) AS n FROM flights WHERE arr_delay IS NOT NULL GROUP BY 1;
