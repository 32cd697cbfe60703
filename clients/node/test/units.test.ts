import assert from 'node:assert/strict';
import { test } from 'node:test';

import { Decimal, Gap, Message, NotAChange, Router } from '../src/index.js';
import { parseExactly } from '../src/json.js';
import { Backoff, isPermanent } from '../src/retry.js';
import { Slots } from '../src/slots.js';

const message = (payload: string, channel = 'c') =>
  new Message(1n, channel, payload, 1, new Date(0));

void test('numbers keep their digits', () => {
  assert.deepEqual(parseExactly('[1, -2, 0, "1.5", null, true]'), [1, -2, 0, '1.5', null, true]);
  assert.deepEqual(parseExactly('{"a":[9007199254740993,{"b":-9007199254740993}]}'), {
    a: [9007199254740993n, { b: -9007199254740993n }],
  });
  assert.deepEqual(parseExactly('{"a\\"1.5":1.50,"b":"\\\\","c":1e400}'), {
    'a"1.5': new Decimal('1.50'),
    b: '\\',
    c: new Decimal('1e400'),
  });
  const half = new Decimal('0.50');
  assert.equal(Number(half) * 2, 1);
  assert.equal(`${String(half)} ${JSON.stringify({ half })}`, '0.50 {"half":"0.50"}');
  for (const broken of ['', '{', '01', '1.', '[1 2]', '{"a":1.5', '"a', '1.5.5', '--1']) {
    assert.throws(() => parseExactly(broken), SyntaxError, broken);
  }
  const long = `["${'x\\n'.repeat(500_000)}",1.5]`;
  assert.deepEqual((parseExactly(long) as unknown[])[1], new Decimal('1.5'));
});

void test('payloads that are no change events', () => {
  for (const payload of [
    '',
    'text',
    '1',
    'null',
    '{"op":"c"}',
    '{"op":[]}',
    '{"op":"x","source":{"table":"t"}}',
    '[]',
  ]) {
    assert.throws(() => message(payload).change(), NotAChange, payload);
  }
});

void test('other formats', () => {
  const deleted = message(
    '{"specversion":"1.0","data":{"id":"7-1","op":"DELETE","table":"t","key":{"id":1},"txid":18446744073709551615}}',
  ).change();
  assert.deepEqual(
    [deleted.id, deleted.op, deleted.key, deleted.txid],
    ['7-1', 'DELETE', { id: 1 }, 18446744073709551615n],
  );
  const updated = message(
    '{"id":"9-1","key":{"id":1},"before":{"a":1.50},"after":{"id":1,"a":2},"source":{"schema":"s",' +
      '"table":"t","txId":18446744073709551615},"op":"u","ts_ms":1796032781961}',
  ).change();
  assert.deepEqual(
    [updated.op, updated.schema, updated.table, updated.key, updated.txid],
    ['UPDATE', 's', 't', { id: 1 }, 18446744073709551615n],
  );
  assert.deepEqual([updated.old, updated.new], [{ a: new Decimal('1.50') }, { id: 1, a: 2 }]);
  assert.equal(updated.time?.toISOString(), '2026-11-30T09:59:41.961Z');
  const { rows, count } = message(
    '{"id":"8-1","op":"UPDATE","table":"t","count":2,"rows":[{"key":{"id":1},"new":{"a":1.50}},{"key":{"id":2}}]}',
  ).change();
  assert.equal(count, 2);
  assert.deepEqual(rows, [
    { changed: [], key: { id: 1 }, new: { a: new Decimal('1.50') } },
    { changed: [], key: { id: 2 } },
  ]);
});

void test('dispatch by channel', () => {
  const router = new Router<string>();
  assert.throws(() => router.handle(message('', 'orders')), /orders/);
  assert.throws(() => router.handle(new Gap(1n, 1)), /gaps/);
  router
    .on('shop_*', () => 'pattern')
    .on('shop_a', () => 'name')
    .on('a.b*', () => 'dot')
    .onGap((gap) => `gap ${gap.lost}`);
  assert.equal(router.handle(message('', 'shop_a')), 'name');
  assert.equal(router.handle(message('', 'shop_b')), 'pattern');
  assert.equal(router.handle(message('', 'a.b')), 'dot');
  assert.throws(() => router.handle(message('', 'aXb')));
  assert.equal(router.handle(new Gap(1n, 2)), 'gap 2');
  router.onOther(() => 'other');
  assert.equal(router.handle(message('', 'orders')), 'other');
});

void test('which errors are tried again', () => {
  const error = (code: string) => Object.assign(new Error(), { code });
  for (const code of ['42501', '42704', '28P01', '3D000', '22023']) {
    assert.ok(isPermanent(error(code)), code);
  }
  for (const code of ['55006', '55000', '57P01', '08P01', '25006', '53300', 'EPIPE', '']) {
    assert.ok(!isPermanent(error(code)), code);
  }
});

void test('pauses', () => {
  const backoff = new Backoff(5000);
  let longest = 100;
  for (let i = 0; i < 20; i++) {
    const pause = backoff.pause(new Error());
    assert.ok(pause >= longest / 2 && pause <= longest);
    longest = Math.min(2 * longest, 5000);
  }
  assert.ok(backoff.pause(Object.assign(new Error(), { code: '55006' })) <= 1000);
  assert.ok(backoff.succeeded());
  assert.ok(backoff.pause(new Error()) <= 100);
});

void test('turns', async () => {
  const slots = new Slots(1, false);
  slots.consumers = 1;
  assert.equal(slots.share(60_000), 60_000);
  slots.consumers = 10;
  assert.equal(slots.share(60_000), 20);
  slots.consumers = 100_000;
  assert.equal(slots.share(60_000), 10);

  await slots.take(undefined);
  const stop = new AbortController();
  const aborted = assert.rejects(slots.take(stop.signal), { name: 'AbortError' });
  const next = slots.take(undefined);
  stop.abort();
  await aborted;
  slots.release();
  await next;
  slots.release();
  await slots.take(undefined);
});
