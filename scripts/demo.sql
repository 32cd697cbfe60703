-- A small shop whose changes are events; "make demo" loads it.

\set ON_ERROR_STOP on
SET client_min_messages = warning;

CREATE EXTENSION pgpubsub;

CREATE TYPE order_status AS ENUM ('pending', 'paid', 'packed', 'sent', 'cancelled');

CREATE TABLE customers (
    id         integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    account    uuid NOT NULL DEFAULT gen_random_uuid() UNIQUE,
    name       text NOT NULL,
    emails     text[] NOT NULL,
    settings   jsonb NOT NULL DEFAULT '{}',
    joined_at  timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE products (
    sku        text PRIMARY KEY,
    title      text NOT NULL,
    price      numeric(10,2) NOT NULL CHECK (price > 0),
    stock      integer NOT NULL CHECK (stock >= 0),
    tags       text[] NOT NULL DEFAULT '{}',
    details    jsonb NOT NULL DEFAULT '{}',
    thumbnail  bytea
);

CREATE TABLE orders (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    customer   integer NOT NULL REFERENCES customers,
    status     order_status NOT NULL DEFAULT 'pending',
    placed_at  timestamptz NOT NULL DEFAULT now(),
    total      numeric(12,2) NOT NULL DEFAULT 0,
    ship_to    jsonb NOT NULL
);

CREATE TABLE order_lines (
    order_id   bigint NOT NULL REFERENCES orders ON DELETE CASCADE,
    line       integer NOT NULL,
    sku        text NOT NULL REFERENCES products,
    quantity   integer NOT NULL CHECK (quantity > 0),
    price      numeric(10,2) NOT NULL,
    PRIMARY KEY (order_id, line)
);

INSERT INTO customers (name, emails, settings)
    SELECT 'Customer ' || i,
           ARRAY['c' || i || '@example.com', 'orders' || i || '@example.org'],
           jsonb_build_object('language', (ARRAY['en', 'de', 'fr'])[i % 3 + 1], 'newsletter', i % 2 = 0)
      FROM generate_series(1, 2000) AS i;

INSERT INTO products (sku, title, price, stock, tags, details, thumbnail)
    SELECT 'SKU-' || to_char(i, 'FM0000'), 'Product no. ' || i, (i % 900) + 0.99, 100000,
           ARRAY['tag' || i % 7, 'tag' || i % 11],
           jsonb_build_object('weight_g', i * 3, 'size', jsonb_build_array(i % 40, i % 30, i % 20)),
           decode(md5(i::text), 'hex')
      FROM generate_series(1, 500) AS i;

-- Earlier orders, placed before anybody listens.
INSERT INTO orders (customer, status, placed_at, total, ship_to)
    SELECT i % 2000 + 1, 'sent', now() - i * interval '1 hour', i % 500 + 0.5,
           jsonb_build_object('city', 'Town ' || i % 50, 'zip', to_char(i % 100000, 'FM00000'))
      FROM generate_series(1, 5000) AS i;
INSERT INTO order_lines
    SELECT o.id, n, 'SKU-' || to_char((o.id * 7 + n) % 500 + 1, 'FM0000'), n, 9.99
      FROM orders AS o, generate_series(1, 3) AS n;

-- What consumers do: they keep what they read, in the transaction that
-- consumes it.  They end at the event on the channel demo_end.
CREATE TABLE received (
    subscription name NOT NULL,
    seq          bigint NOT NULL,
    channel      text,
    payload      text,
    lost         bigint
);

CREATE PROCEDURE consume(subscription name)
LANGUAGE plpgsql AS $$
DECLARE
    ended boolean;
BEGIN
    LOOP
        WITH messages AS (
            INSERT INTO received
                SELECT consume.subscription, p.seq, p.channel, p.payload, p.lost
                  FROM pgpubsub.poll(consume.subscription, 500, '5s') AS p
            RETURNING channel
        )
        SELECT coalesce(bool_or(channel = 'demo_end'), false) INTO ended FROM messages;
        COMMIT;
        EXIT WHEN ended;
    END LOOP;
END $$;

-- What the reader of the durable channel orders got.
CREATE VIEW invoices AS
    SELECT seq, payload::jsonb ->> 'op' AS op, payload::jsonb -> 'key' ->> 'id' AS id, lost
      FROM received WHERE subscription = 'invoices' AND channel IS DISTINCT FROM 'demo_end';

-- What the client that LISTENs got, counted.
CREATE TABLE native_received (channel text, events bigint);

-- Each channel's events: how many were queued, and how many each reader got.
-- The subscription warehouse reads two of the four channels.
CREATE VIEW delivery AS
    SELECT *,
           CASE WHEN published > 0 AND listen_client = published AND audit = published
                 AND warehouse = CASE WHEN channel IN ('orders', 'order_lines') THEN published ELSE 0 END
                THEN 'yes' ELSE 'NO' END AS adds_up
      FROM (SELECT c.channel, c.published,
                   (SELECT sum(n.events) FROM native_received AS n
                     WHERE n.channel = c.channel) AS listen_client,
                   (SELECT count(*) FROM received AS r
                     WHERE r.channel = c.channel AND r.subscription = 'audit') AS audit,
                   (SELECT count(*) FROM received AS r
                     WHERE r.channel = c.channel AND r.subscription = 'warehouse') AS warehouse
              FROM pgpubsub.stat_channels AS c
             WHERE c.channel IN ('customers', 'products', 'orders', 'order_lines')) AS counts;

-- The tables become publishers.
SELECT pgpubsub.attach('customers');
SELECT pgpubsub.attach('products', watch => '{price,stock,title}');
SELECT pgpubsub.attach('orders', old_values => 'changed');
SELECT pgpubsub.attach('order_lines', level => 'statement');

SELECT pgpubsub.subscribe('warehouse', '{orders,order_lines,demo_end}');
SELECT pgpubsub.subscribe('audit', '{*}', on_full => 'block');
