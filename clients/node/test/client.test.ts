import assert from 'node:assert/strict';
import { setTimeout as sleep } from 'node:timers/promises';
import type { PoolClient } from 'pg';

import { type Change, Decimal, type Event, Router } from '../src/index.js';
import { type World, bothWays, take, text, until } from './world.js';

bothWays('events', async (world) => {
  const subscription = await world.client().subscribe(world.sub, [world.channel]);
  await world.publish(1, 3);
  assert.deepEqual(await take(subscription, 2), ['1', '2']);
  // the loop was left at 2, so only 1 was acknowledged
  assert.deepEqual(await take(subscription, 2), ['2', '3']);
  const huge = 'ünïcödé ☃ 𝄞 \\ \' " \n'.repeat(20_000);
  await world.value('SELECT pgpubsub.publish($1::text, $2::text)', [world.channel, huge]);
  assert.deepEqual(await take(subscription, 2), ['3', huge]);
});

for (const format of ['plain', 'cloudevents', 'debezium']) {
  bothWays(`change events, ${format}`, async (world) => {
    await world.value('DROP TABLE IF EXISTS node_items');
    await world.value('CREATE TABLE node_items (id bigint PRIMARY KEY, name text, price numeric)');
    await world.value("SELECT pgpubsub.attach('node_items', $1, format => $2)", [
      world.channel,
      format,
    ]);
    const subscription = await world.client().subscribe(world.sub, [world.channel]);
    await world.value(
      "INSERT INTO node_items VALUES (9007199254740993, 'Äpfel', 0.12345678901234567890)",
    );
    await world.value('UPDATE node_items SET name = NULL');
    const changes: Change[] = [];
    for await (const event of subscription) {
      assert.equal(event.kind, 'message');
      changes.push(event.change());
      if (changes.length === 2) {
        break;
      }
    }
    const [insert, update] = changes;
    assert.ok(insert && update);
    assert.deepEqual([insert.op, insert.table, insert.old], ['INSERT', 'node_items', undefined]);
    assert.deepEqual(insert.key, { id: 9007199254740993n });
    assert.deepEqual(insert.new?.price, new Decimal('0.12345678901234567890'));
    assert.deepEqual(update.changed, format === 'debezium' ? [] : ['name']);
    assert.deepEqual(update.old, { name: 'Äpfel' });
    assert.equal(update.new?.name, null);
    assert.ok(update.time && !Number.isNaN(update.time.getTime()));
    assert.ok((update.txid ?? 0n) > (insert.txid ?? 0n));
  });
}

bothWays('a consumer that throws', async (world) => {
  const pool = world.pool();
  const subscription = await world.client(pool).subscribe(world.sub, [world.channel]);
  await world.publish(1, 4);
  await world.pending(4);
  const seen: string[] = [];
  const boom = new Error('boom');
  const handler = (event: Event) => {
    seen.push(text(event));
    if (text(event) === '3') {
      throw boom;
    }
  };
  await assert.rejects(subscription.handle(handler), boom);
  await assert.rejects(subscription.handle(handler), boom);
  assert.deepEqual(seen, ['1', '2', '3', '3']);

  await assert.rejects(
    subscription.handleInTransaction((_transaction, batch) => {
      assert.deepEqual(batch.map(text), ['3', '4']);
      throw boom;
    }),
    boom,
  );
  await assert.rejects(
    subscription.handleInTransaction(async (transaction) => {
      await assert.rejects(transaction.query('SELECT 1 / 0'));
    }),
    /ignored an error/,
  );

  const transaction = await pool.connect();
  await transaction.query('BEGIN');
  assert.deepEqual((await subscription.poll(transaction, 1)).map(text), ['3']);
  await transaction.query('COMMIT');
  transaction.release();
  assert.deepEqual(await take(subscription, 1), ['4']);
});

bothWays('batches', async (world) => {
  const received: string[] = [];
  const consumed: number[] = [];
  const hooks = {
    received: (_name: string, events: readonly Event[]) => received.push(...events.map(text)),
    consumed: (_name: string, count: number) => consumed.push(count),
  };
  const client = world.client(world.pool(), { hooks });
  const subscription = await client.subscribe(world.sub, [world.channel]);
  await world.publish(1, 7);
  await world.pending(7);
  const batches: string[][] = [];
  for await (const batch of subscription.batches({ limit: 3 })) {
    batches.push(batch.map(text));
    if (batches.length === 3) {
      break;
    }
  }
  assert.deepEqual(batches, [['1', '2', '3'], ['4', '5', '6'], ['7']]);
  assert.deepEqual(received, ['1', '2', '3', '4', '5', '6', '7']);
  assert.deepEqual(consumed, [3, 3]);
  assert.deepEqual(await take(subscription, 1), ['7']);
});

for (const onFull of ['drop', 'evict'] as const) {
  bothWays(`a full queue, ${onFull}`, async (world) => {
    const subscription = await world.client().subscribe(world.sub, [world.channel], { onFull });
    await world.value(
      `SELECT count(pgpubsub.publish($1::text, i || repeat('x', 5000)))
       FROM generate_series(1, 3000) AS i`,
      [world.channel],
    );
    await until(
      async () =>
        Number(
          await world.value('SELECT published FROM pgpubsub.stat_channels WHERE channel = $1', [
            world.channel,
          ]),
        ) === 3000,
    );
    let missing = 0;
    let count = 0;
    for await (const event of subscription) {
      if (event.kind === 'gap') {
        assert.ok(event.known);
        missing += event.lost;
      } else {
        count++;
        if (event.payload.startsWith('3000x')) {
          break;
        }
      }
    }
    // what a look has shown may be lost before it is acknowledged, and is told
    // as missing then, too
    assert.ok(missing > 0 && count + missing >= 3000, `${count} and ${missing}`);
  });
}

bothWays('100,000 events in order', async (world) => {
  await world.value('SELECT pgpubsub.set_durable($1::text)', [world.channel]);
  const subscription = await world.client().subscribe(world.sub, [world.channel]);
  const published = world.publish(1, 100_000);
  let expected = 1;
  for await (const batch of subscription.batches({ limit: 1000 })) {
    for (const event of batch) {
      assert.equal(text(event), String(expected++));
    }
    if (expected > 100_000) {
      break;
    }
  }
  await published;
});

for (const durable of [false, true]) {
  for (const failure of ['backend', 'relay', 'restart', 'crash', 'bouncer']) {
    bothWays(`${failure} fails, ${durable ? 'durable' : 'in memory'}`, async (world) => {
      const subscription = await world.client().subscribe(world.sub, [world.channel]);
      if (durable) {
        await world.value('SELECT pgpubsub.set_durable($1::text)', [world.channel]);
      }
      const gap = !durable && ['relay', 'restart', 'crash'].includes(failure);
      await world.publish(1, 1);
      const taken = take(subscription, gap ? 4 : 3);
      await world.waits();
      await world.failures[failure]?.();
      await world.publish(2, 3);
      assert.deepEqual(await taken, ['1', ...(gap ? ['gap -1'] : []), '2', '3']);
    });
  }
}

// Two consumers write what they get in its transaction, while all that can
// happen does.
bothWays('exactly once', async (world) => {
  const count = 1000;
  await world.value('DROP TABLE IF EXISTS node_results');
  await world.value('CREATE TABLE node_results (n int)');
  await world.value('SELECT pgpubsub.set_durable($1::text)', [world.channel]);
  const client = world.client(world.pool(), { batchSize: 20 });
  const subscription = await client.subscribe(world.sub, [world.channel]);
  const handler = async (transaction: PoolClient, batch: Event[]) => {
    for (const event of batch) {
      await transaction.query('INSERT INTO node_results VALUES ($1::text::int)', [text(event)]);
    }
  };
  const stop = new AbortController();
  const ended = [1, 2].map(() =>
    assert.rejects(subscription.handleInTransaction(handler, stop), { name: 'AbortError' }),
  );
  const results = async () => Number(await world.value('SELECT count(*) FROM node_results'));
  let first = 0;
  for (const what of ['crash', 'bouncer-restart', 'backends', 'restart']) {
    await world.publish(first + 1, first + count / 4);
    await until(async () => (await results()) > first, 'some are handled');
    if (what === 'backends') {
      await world.value(
        `SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
         WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'`,
      );
    } else {
      world.control(what);
    }
    first += count / 4;
  }
  await until(async () => (await results()) >= count, 'all are handled');
  stop.abort();
  await Promise.all(ended);
  assert.equal(await results(), count);
  assert.equal(Number(await world.value('SELECT count(DISTINCT n) FROM node_results')), count);
});

// None is missing, in the order in which they were published; some may come twice.
bothWays('at least once over a crash', async (world) => {
  const count = 1000;
  await world.value('SELECT pgpubsub.set_durable($1::text)', [world.channel]);
  const client = world.client(world.pool(), { batchSize: 20 });
  const subscription = await client.subscribe(world.sub, [world.channel]);
  let seen = 0;
  const stop = new AbortController();
  const ended = assert.rejects(
    subscription.handle((event) => {
      assert.ok(Number(text(event)) <= seen + 1, `${text(event)} after ${seen}`);
      seen = Math.max(seen, Number(text(event)));
    }, stop),
    { name: 'AbortError' },
  );
  for (const [first, what] of [
    [0, 'crash'],
    [count / 2, 'bouncer-restart'],
  ] as const) {
    await world.publish(first + 1, first + count / 2);
    await until(() => seen > first, 'some are handled');
    world.control(what);
  }
  await until(() => seen === count, 'all are handled');
  stop.abort();
  await ended;
});

bothWays('an abort loses nothing', async (world) => {
  const count = 200;
  const client = world.client(world.pool(), { batchSize: 7 });
  const subscription = await client.subscribe(world.sub, [world.channel]);
  await world.publish(1, count);
  let expected = 1;
  let stalled = 0;
  for (let turn = 1; expected <= count; turn++) {
    const before = expected;
    const stop = new AbortController();
    const ended = subscription.handle((event) => {
      assert.equal(text(event), String(expected++));
      if (expected % 10 === 0) {
        stop.abort();
      }
    }, stop);
    const rejected = assert.rejects(ended, { name: 'AbortError' });
    // any moment; a later one where nothing was reached, as on a machine that has
    // other work a connection takes longer
    await sleep((turn % 20) * (1 + Math.floor(stalled / 20)));
    stop.abort();
    await rejected;
    stalled = expected > before ? 0 : stalled + 1;
  }
});

bothWays('many consumers over one pool', async (world) => {
  const consumers = 20;
  const pool = world.pool(4);
  const client = world.client(pool);
  const seen = new Set<string>();
  const warnings: string[] = [];
  const warned = ({ name }: Error) => warnings.push(name);
  process.on('warning', warned);
  const stop = new AbortController(); // one for all
  const ended: Promise<void>[] = [];
  for (let i = 0; i < consumers; i++) {
    const router = new Router().on('node_*', (message) => seen.add(`${i} ${message.payload}`));
    const subscription = await client.subscribe(`${world.sub}_${i}`, [world.channel]);
    ended.push(assert.rejects(subscription.handle(router.handle, stop), { name: 'AbortError' }));
  }
  for (let n = 1; n <= 3; n++) {
    // the pool has connections for others
    await pool.query('SELECT pgpubsub.publish($1::text, $2::text)', [world.channel, String(n)]);
    await until(() => seen.size === n * consumers, 'all have it');
  }
  stop.abort();
  await Promise.all(ended);
  process.off('warning', warned);
  assert.ok(!warnings.includes('MaxListenersExceededWarning'));
  for (let i = 0; i < consumers; i++) {
    assert.ok(await client.unsubscribe(`${world.sub}_${i}`));
  }
});

bothWays('errors that stay', async (world) => {
  const client = world.client();
  await assert.rejects(take(client.open('node_nosuch'), 1), /node_nosuch/);
  await assert.rejects(client.subscribe('', [world.channel]), { code: '22023' });
  const subscription = await client.subscribe(world.sub, [world.channel], { startAt: 'oldest' });
  const ended = assert.rejects(take(subscription, 1), (error: Error) =>
    error.message.includes(world.sub),
  );
  await world.waits();
  assert.equal(await client.unsubscribe(world.sub), true);
  await ended;
  assert.equal(await client.unsubscribe(world.sub), false);
});

bothWays('a subscription in use', async (world: World) => {
  const pool = world.pool();
  const subscription = await world.client(pool).subscribe(world.sub, [world.channel]);
  await world.publish(1, 2);
  await world.pending(2);
  const other = await pool.connect();
  await other.query('BEGIN');
  assert.deepEqual((await subscription.poll(other, 1)).map(text), ['1']);
  const taken = take(subscription, 1);
  await until(
    async () =>
      world.retries.length > 0 ||
      (await world.value(
        `SELECT 1 FROM pg_stat_activity
         WHERE state = 'active' AND query LIKE 'CALL pgpubsub.wait%' LIMIT 1`,
      )),
    'it waits or has tried',
  );
  await other.query('COMMIT');
  other.release();
  assert.deepEqual(await taken, ['2']);
});
