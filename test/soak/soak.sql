-- What the soak test has in each of its databases.

CREATE EXTENSION pgpubsub;

-- How many events each writer has published on each channel, committed.
CREATE TABLE counter (writer int, channel text, n bigint NOT NULL DEFAULT 0,
                      PRIMARY KEY (writer, channel)) WITH (fillfactor = 20);

-- What the readers have read, and in which order.
CREATE TABLE taken (
    arrival bigint GENERATED ALWAYS AS IDENTITY, subscription text, seq bigint,
    channel text, writer int, n bigint, id int, version bigint, event_id text,
    pid int, lost bigint);

-- What those who look and then ack, in another transaction, have been shown.
CREATE TABLE looked (
    arrival bigint GENERATED ALWAYS AS IDENTITY, subscription text, look bigint,
    seq bigint, channel text, payload text, pid int, lost bigint);
CREATE SEQUENCE look_number;
CREATE INDEX ON looked (look);
CREATE TABLE acked (subscription text, look bigint, seq bigint, count bigint);

-- What a native listener has heard: the file that it has written.
CREATE TABLE heard (rank bigint, channel text, writer int, n bigint);

-- Rows that everybody updates; one table is written in transactional mode
-- alone, one in async mode alone, one in both to a durable channel.
CREATE TABLE rows_transactional (id int PRIMARY KEY, version bigint, writer int, n bigint) WITH (fillfactor = 20);
CREATE TABLE rows_async (LIKE rows_transactional INCLUDING ALL) WITH (fillfactor = 20);
INSERT INTO rows_transactional SELECT i, 0, 0, 0 FROM generate_series(1, 20) AS i;
CREATE TABLE rows_durable (LIKE rows_transactional INCLUDING ALL) WITH (fillfactor = 20);
INSERT INTO rows_async SELECT * FROM rows_transactional;
INSERT INTO rows_durable SELECT * FROM rows_transactional;
SELECT pgpubsub.set_durable('d*');
SELECT pgpubsub.attach('rows_transactional', 'it', '{update}', old_values => 'none', publish_mode => 'transactional'),
       pgpubsub.attach('rows_async', 'ia', '{update}', old_values => 'none', publish_mode => 'async'),
       pgpubsub.attach('rows_durable', 'di', '{update}', old_values => 'none');

-- Tables whose triggers come and go.
CREATE TABLE churn_1 (i int);
CREATE TABLE churn_2 (i int);

-- One event: the counter and the event are of one transaction.
CREATE FUNCTION publish_one(who int, to_channel text, filler int) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    k bigint;
BEGIN
    UPDATE counter SET n = n + 1 WHERE writer = who AND channel = to_channel RETURNING n INTO STRICT k;
    PERFORM pgpubsub.publish(to_channel, who || ':' || k || ' ' || repeat('x', filler));
END $$;

-- Many events of one channel.
CREATE FUNCTION publish_many(who int, to_channel text, count int) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    k bigint;
BEGIN
    UPDATE counter SET n = n + count WHERE writer = who AND channel = to_channel RETURNING n INTO STRICT k;
    PERFORM count(pgpubsub.publish(to_channel, who || ':' || i || ' ' || repeat('x', 100)))
       FROM generate_series(k - count + 1, k) AS i;
END $$;

CREATE FUNCTION update_one(who int, mode text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    k bigint;
    which int := 1 + floor(random() * 20)::int;
BEGIN
    UPDATE counter SET n = n + 1
     WHERE writer = who AND channel = CASE mode WHEN 'async' THEN 'ia' WHEN 'durable' THEN 'di' ELSE 'it' END
    RETURNING n INTO STRICT k;
    IF mode = 'async' THEN
        UPDATE rows_async SET version = version + 1, writer = who, n = k WHERE id = which;
    ELSIF mode = 'durable' THEN
        UPDATE rows_durable SET version = version + 1, writer = who, n = k WHERE id = which;
    ELSE
        UPDATE rows_transactional SET version = version + 1, writer = who, n = k WHERE id = which;
    END IF;
END $$;

-- Channels: c* are written in transactional mode, a* in async mode, m1 in
-- both; so are d*, which are durable, and dr has few events.  Payloads on c3,
-- a3 and d3 may be too long for a NOTIFY.
CREATE PROCEDURE write(who int, mode text, transactions int) LANGUAGE plpgsql AS $$
DECLARE
    letter CONSTANT text := CASE mode WHEN 'async' THEN 'a' ELSE 'c' END;
    updated boolean;
    dice float;
BEGIN
    FOR t IN 1 .. transactions LOOP
        PERFORM set_config('pgpubsub.publish_mode', mode, true);
        updated := false;
        IF random() < 0.005 THEN
            -- more than can be staged: published in transactional mode
            FOR j IN 1 .. 45 LOOP
                PERFORM publish_one(who, 'm1', 900);
            END LOOP;
            COMMIT;
            PERFORM set_config('pgpubsub.publish_mode', mode, true);
        END IF;
        IF random() < 0.0015 THEN
            -- more than go to the relay in memory: it reads them in the log
            PERFORM publish_many(who, 'd2', 1100);
        END IF;
        FOR i IN 1 .. 1 + (random() * 4)::int LOOP
            dice := random();
            IF dice < 0.2 AND NOT updated THEN
                -- one row per transaction, so that there is no deadlock
                PERFORM update_one(who, CASE WHEN random() < 0.4 THEN 'durable' ELSE mode END);
                updated := true;
            ELSIF dice < 0.3 THEN
                BEGIN
                    PERFORM publish_one(who, letter || 1 + floor(random() * 2)::int, (random() * 300)::int);
                    PERFORM publish_one(who, 'm1', (random() * 30)::int);
                    PERFORM publish_one(who, 'd1', (random() * 30)::int);
                    IF random() < 0.5 THEN RAISE division_by_zero; END IF;
                EXCEPTION WHEN division_by_zero THEN
                    PERFORM publish_one(who, letter || '1', 1);
                    PERFORM publish_one(who, 'd2', 1);
                END;
            ELSIF dice < 0.34 THEN
                PERFORM publish_one(who, letter || '3', CASE WHEN random() < 0.5 THEN 9000 ELSE 50 END);
            ELSIF dice < 0.45 THEN
                PERFORM publish_one(who, 'm1', (random() * 300)::int);
            ELSIF dice < 0.71 THEN
                PERFORM publish_one(who, 'd' || 1 + floor(random() * 2)::int, (random() * 300)::int);
            ELSIF dice < 0.72 THEN
                PERFORM publish_one(who, 'd3', CASE WHEN random() < 0.5 THEN 9000 ELSE 50 END);
            ELSIF dice < 0.722 THEN
                PERFORM publish_one(who, 'dr', 10);
            ELSE
                PERFORM publish_one(who, letter || 1 + floor(random() * 2)::int, (random() * 300)::int);
            END IF;
        END LOOP;
        IF random() < 0.1 THEN ROLLBACK; ELSE COMMIT; END IF;
    END LOOP;
END $$;

-- A row of poll() as a row of taken.
CREATE FUNCTION store(s name, seq bigint, channel text, payload text, pid int, lost bigint) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF channel IN ('ia', 'it', 'di') THEN
        INSERT INTO taken (subscription, seq, channel, writer, n, id, version, event_id, pid, lost)
        SELECT s, store.seq, store.channel, j.writer, j.n, j.id, j.version, store.payload::jsonb ->> 'id', store.pid, NULL
          FROM jsonb_to_record(store.payload::jsonb -> 'new') AS j (writer int, n bigint, id int, version bigint);
    ELSE
        INSERT INTO taken (subscription, seq, channel, writer, n, pid, lost)
        SELECT s, store.seq, store.channel, p[1]::int, p[2]::bigint, store.pid, store.lost
          FROM string_to_array(split_part(payload, ' ', 1), ':') AS p;
    END IF;
END $$;

-- Poll into taken; how many rows.
CREATE FUNCTION take(s name, max_messages int, timeout interval DEFAULT '100ms') RETURNS bigint LANGUAGE sql AS $$
    SELECT count(store(s, p.seq, p.channel, p.payload, p.pid, p.lost))
      FROM pgpubsub.poll(s, max_messages, timeout) AS p $$;

-- Look, store a part of what was shown, ack that part; how many rows.  If some
-- of them were overwritten before the ack, they count as lost, so all is undone.
CREATE FUNCTION look_and_ack(s name, max_messages int, part float) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    r record;
    count bigint := 0;
    shown bigint := 0;
    acked bigint;
    last bigint;
BEGIN
    FOR r IN SELECT * FROM pgpubsub.poll(s, max_messages, '100ms', consume => false) LOOP
        -- the gap row comes first
        EXIT WHEN last IS NOT NULL AND r.lost IS NULL AND random() > part;
        PERFORM store(s, r.seq, r.channel, r.payload, r.pid, r.lost);
        last := r.seq;
        count := count + 1;
        shown := shown + (r.lost IS NULL)::int;
    END LOOP;
    IF last IS NOT NULL THEN
        acked := pgpubsub.ack(s, last);
        IF acked < shown THEN
            RAISE SQLSTATE 'SOAK1';
        END IF;
        ASSERT acked = shown, format('%s were shown, %s acked', shown, acked);
    END IF;
    RETURN count;
EXCEPTION WHEN SQLSTATE 'SOAK1' THEN
    RETURN 0;
END $$;

-- Look, and keep what is shown: its number, and the seq of its last event or
-- of one before.  No row if there is nothing.
CREATE FUNCTION look(s name, max_messages int, part float) RETURNS TABLE (look bigint, seq bigint) LANGUAGE plpgsql AS $$
DECLARE
    whole boolean := random() < part;
BEGIN
    look := nextval('look_number');
    INSERT INTO looked (subscription, look, seq, channel, payload, pid, lost)
    SELECT s, look.look, p.seq, p.channel, p.payload, p.pid, p.lost
      FROM pgpubsub.poll(s, max_messages, '100ms', consume => false) AS p;
    SELECT l.seq INTO seq FROM looked AS l WHERE l.look = look.look
     ORDER BY CASE WHEN whole THEN l.arrival ELSE random() END DESC LIMIT 1;
    IF FOUND THEN
        RETURN NEXT;
    END IF;
END $$;

-- Ack what that look has shown, up to an event; it was read then.
CREATE FUNCTION ack_looked(s name, of_look bigint, up_to bigint) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO acked VALUES (s, of_look, up_to, pgpubsub.ack(s, up_to));
    PERFORM store(s, l.seq, l.channel, l.payload, l.pid, l.lost)
       FROM (SELECT * FROM looked WHERE look = of_look AND looked.seq <= up_to ORDER BY arrival) AS l;
END $$;

-- What no view may ever say.
CREATE VIEW insane AS
SELECT 'queue ' || q::text AS what FROM pgpubsub.stat_queue AS q
 WHERE used_bytes NOT BETWEEN 0 AND queue_size OR peak_used_bytes NOT BETWEEN 0 AND queue_size
    OR staging_used_bytes NOT BETWEEN 0 AND staging_size OR messages < 0 OR published < 0
    OR published_bytes < 0 OR full_count < 0 OR full_ms < 0 OR evictions < 0 OR bad_frames <> 0
    OR notify_queue_usage NOT BETWEEN 0 AND 1 OR relay_restarts < 0 OR newest_seq < oldest_seq
    OR relay_state NOT IN ('starting', 'listening', 'full', 'stopped')
UNION ALL
SELECT 'channel ' || c::text FROM pgpubsub.stat_channels AS c
 WHERE subscriptions < 0 OR messages < 0 OR published < 0 OR published_bytes < 0 OR delivered < 0 OR lost < 0
    OR length(channel) NOT BETWEEN 1 AND 63
UNION ALL
SELECT 'log ' || l::text FROM pgpubsub.stat_log AS l
 WHERE log_size <= 0 OR used_bytes < 0 OR segments NOT BETWEEN 0 AND 8 OR newest_seq < oldest_seq
    OR appended < 0 OR appended_bytes < 0 OR read_back < 0 OR rotations < 0 OR full_count < 0
UNION ALL
SELECT 'subscription ' || s::text FROM pgpubsub.stat_subscriptions AS s
 WHERE pending < 0 OR pending_bytes < 0 OR delivered < 0 OR delivered_bytes < 0 OR lost < 0 OR polls < 0
    OR empty_polls NOT BETWEEN 0 AND polls + 1 OR on_full NOT IN ('drop', 'evict', 'block')
    OR state NOT IN ('waiting', 'reading', 'idle', 'holding', 'evicted')
    OR pending > 1000000 OR pending_bytes > 1000000000;
