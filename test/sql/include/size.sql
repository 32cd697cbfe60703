\set ECHO none
--
-- try_size: what comes of an event when pgpubsub.max_payload is less than its
-- size, by one byte less, and by none.  All in one transaction, so that the
-- event has the same size each time.  too_small: a limit that its rows stay
-- below, so that the error knows the size of the whole event.
--
CREATE FUNCTION try_size(statement text, too_small int, OUT size int, OUT result text) LANGUAGE plpgsql AS $$
DECLARE
    max_payload int;
    detail text;
BEGIN
    size := too_small + 1;
    FOR attempt IN 1 .. 3 LOOP
        max_payload := CASE attempt WHEN 1 THEN too_small WHEN 2 THEN size - 1 ELSE size END;
        PERFORM set_config('pgpubsub.max_payload', max_payload::text, true);
        BEGIN
            EXECUTE statement;
            result := concat_ws(E'\n', result, 'passes');
        EXCEPTION WHEN OTHERS THEN
            GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL;
            size := coalesce(substring(detail FROM 'has (\d+) bytes;'), size::text);
            detail := replace(replace(detail, size || ' bytes', 'size bytes'), 'most ' || size - 1, 'most size - 1');
            result := concat_ws(E'\n', result, SQLSTATE || ': ' || replace(detail, 'most ' || too_small, 'most less'));
        END;
    END LOOP;
END$$;
\set ECHO all
