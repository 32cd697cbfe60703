// The package as a program gets it: what was built into dist, by its name, with
// the types that are published.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import {
  type Change,
  Client,
  Decimal,
  type Event,
  Gap,
  Message,
  NotAChange,
  Router,
  Subscription,
} from 'pgpubsub';
import pg from 'pg';

async function consume(subscription: Subscription, signal: AbortSignal): Promise<Change[]> {
  const changes: Change[] = [];
  for await (const event of subscription.events({ signal })) {
    if (event.kind === 'message') {
      changes.push(event.change());
    } else if (event.lost > 0) {
      break;
    }
  }
  await subscription.handleInTransaction(async (transaction, batch: Event[]) => {
    await transaction.query('SELECT $1::int', [batch.length]);
  });
  return changes;
}

void test('a program in TypeScript', async () => {
  const pool = new pg.Pool();
  const subscription = new Client(pool, { hooks: { retry: () => undefined } }).open('billing');
  assert.ok(subscription instanceof Subscription);
  assert.equal(typeof consume, 'function');
  const router = new Router<string>().on('orders', (message) => message.payload);
  assert.equal(router.handle(new Message(1n, 'orders', 'text', 1, new Date(0))), 'text');
  assert.equal(new Gap(1n, 3).lost, 3);
  assert.equal(Number(new Decimal('1.50')), 1.5);
  assert.throws(() => new Message(1n, 'orders', 'text', 1, new Date(0)).change(), NotAChange);
  await pool.end();
});
