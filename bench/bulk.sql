INSERT INTO bulk_orders SELECT i, i % 1000, 'pending', i % 100, 'order number ' || i FROM generate_series(1, :rows) AS i;
