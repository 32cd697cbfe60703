\set id random(1, 10000)
UPDATE orders SET status = 'paid', amount = (amount + 1) % 1000, updated_at = now() WHERE id = :id;
