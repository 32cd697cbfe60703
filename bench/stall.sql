-- Ten events a transaction.  Each client has rows of its own: none waits for another.
\set id :client_id * 1000 + 10 * random(0, 99)
UPDATE orders SET status = 'paid', amount = (amount + 1) % 1000, updated_at = now() WHERE id BETWEEN :id + 1 AND :id + 10;
