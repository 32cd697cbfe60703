-- The tables of one variant, in the first schema of search_path.

CREATE TABLE orders (
    id         integer PRIMARY KEY,
    customer   integer NOT NULL,
    status     text NOT NULL,
    amount     numeric(10,2) NOT NULL,
    note       text,
    updated_at timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 50);
CREATE TABLE bulk_orders (LIKE orders INCLUDING ALL);
CREATE TABLE latency (n integer);

INSERT INTO orders
SELECT i, i % 1000, 'pending', i % 100, 'order number ' || i
  FROM generate_series(1, 10000) AS i;
INSERT INTO latency VALUES (0);
VACUUM (ANALYZE, FREEZE) orders;
