\set ECHO none
--
-- try_sizes: make an event with each value of pgpubsub.max_payload from 4 less
-- than length to 4 more.  All in one transaction, so that the event has the
-- same size each time, or 2 more than length, where the transaction's number
-- has a digit more than that of the one that found the length.
--
-- sizes: which of them came whole: those that max_payload had room for.
--
CREATE FUNCTION try_sizes(statement text, length int) RETURNS void LANGUAGE plpgsql AS $$BEGIN
    FOR i IN 1 .. 9 LOOP
        PERFORM set_config('pgpubsub.max_payload', (length - 5 + i)::text, true);
        EXECUTE statement;
    END LOOP;
    PERFORM pgpubsub.publish('end', '');
END$$;
CREATE FUNCTION sizes(length int, OUT events bigint, OUT to_the_byte boolean, OUT some_whole boolean, OUT some_not boolean) LANGUAGE sql AS $$
    WITH e AS MATERIALIZED (
        SELECT octet_length(event) AS size, event !~ '"truncated":true\}$' AS whole,
               length - 5 + split_part(event::jsonb ->> 'id', '-', 2)::int AS max_payload
          FROM received()
    ), s AS (SELECT max(size) FILTER (WHERE whole) AS size FROM e)
    SELECT count(*), bool_and(CASE WHEN e.whole THEN e.size = s.size AND e.size <= e.max_payload ELSE e.max_payload < s.size END),
           bool_or(e.whole), bool_or(NOT e.whole)
      FROM e, s
$$;
\set ECHO all
