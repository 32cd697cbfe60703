-- A database with pgpubsub: the same tables, in the schema "rows" with
-- triggers for each row, in "statements" with one for each statement.  Their
-- options are the defaults, so events carry more than those of "native":
-- key, what changed, old values, txid, pid, time.

CREATE EXTENSION pgpubsub;
CREATE SCHEMA rows;
CREATE SCHEMA statements;

SET search_path = rows;
\ir tables.sql
SELECT pgpubsub.attach('orders'), pgpubsub.attach('bulk_orders', 'orders');

SET search_path = statements;
\ir tables.sql
SELECT pgpubsub.attach('orders', level => 'statement'),
       pgpubsub.attach('bulk_orders', 'orders', level => 'statement');
