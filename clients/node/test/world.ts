import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import pg from 'pg';

import { Client, type ClientOptions, type Event, type Subscription } from '../src/index.js';

const env = (name: string) => process.env[name] ?? '';
let worlds = 0;

/** Wait for a state. */
export async function until(reached: () => unknown, what = 'a state'): Promise<void> {
  const end = Date.now() + 60_000;
  while (!(await reached())) {
    assert.ok(Date.now() < end, `never came to pass: ${what}`);
    await sleep(10); // between two looks
  }
}

/** A way to the server of scripts/client-server, with names that no other test has. */
export class World {
  readonly channel = `node_${Date.now()}_${++worlds}`;
  readonly sub = `${this.channel}_sub`;
  readonly retries: unknown[] = [];
  readonly #pools: pg.Pool[] = [];

  constructor(readonly port: number) {}

  pool(max = 6): pg.Pool {
    const pool = new pg.Pool({
      host: env('PGHOST'),
      port: this.port,
      user: env('PGUSER'),
      database: env('PGDATABASE'),
      max,
    });
    this.#pools.push(pool);
    return pool;
  }

  client(pool: pg.Pool = this.pool(), options: ClientOptions = {}): Client {
    return new Client(pool, {
      maxPause: 1000,
      hooks: { retry: (_name, error) => this.retries.push(error) },
      ...options,
    });
  }

  async end(): Promise<void> {
    await this.value('SELECT pgpubsub.unsubscribe($1)', [this.sub]);
    await Promise.all(this.#pools.map((pool) => pool.end()));
  }

  /** The value of a query, past the pooler; undefined if it has no row. */
  async value(sql: string, values: unknown[] = []): Promise<unknown> {
    const client = new pg.Client({
      host: env('PGHOST'),
      port: Number(env('PGPORT')),
      user: env('PGUSER'),
      database: env('PGDATABASE'),
    });
    await client.connect();
    try {
      const { rows } = await client.query<unknown[]>({ text: sql, values, rowMode: 'array' });
      return rows[0]?.[0];
    } finally {
      await client.end();
    }
  }

  async publish(first: number, last: number): Promise<void> {
    await this.value(
      `SELECT count(pgpubsub.publish($1::text, i::text))
       FROM generate_series($2::int, $3::int) AS i`,
      [this.channel, first, last],
    );
  }

  async stat(column: string): Promise<unknown> {
    return await this.value(
      `SELECT ${column} FROM pgpubsub.stat_subscriptions WHERE subscription = $1`,
      [this.sub],
    );
  }

  async pending(count: number): Promise<void> {
    await until(
      async () => Number(await this.stat('pending')) === count,
      `${count} events are there`,
    );
  }

  async waits(): Promise<void> {
    await until(
      async () => (await this.stat("state = 'waiting' AND pending = 0")) === true,
      'it waits',
    );
  }

  control(what: string): void {
    execFileSync(env('CLIENT_SERVER'), [what], { stdio: 'ignore' });
  }

  async relayListens(but = 0): Promise<void> {
    await until(
      () =>
        this.value(
          `SELECT 1 FROM pgpubsub.stat_queue WHERE datname = current_database()
           AND relay_state = 'listening' AND relay_pid <> $1`,
          [but],
        ),
      'the relay listens',
    );
  }

  /** What may happen to a consumer that waits. */
  readonly failures: Record<string, () => Promise<void>> = {
    backend: async () => {
      await until(() =>
        this.value(
          `SELECT pg_terminate_backend(pid) FROM pgpubsub.stat_subscriptions
           WHERE subscription = $1 AND state = 'waiting'`,
          [this.sub],
        ),
      );
    },
    relay: async () => {
      const pid = await this.value(
        'SELECT relay_pid FROM pgpubsub.stat_queue WHERE datname = current_database()',
      );
      await this.value('SELECT pg_terminate_backend($1)', [pid]);
      await this.relayListens(Number(pid));
    },
    restart: async () => {
      this.control('restart');
      await this.relayListens();
    },
    crash: async () => {
      this.control('crash');
      await this.relayListens();
    },
    bouncer: () => {
      this.control('bouncer-restart');
      return Promise.resolve();
    },
  };
}

/** Run a test directly and through PgBouncer in transaction mode. */
export function bothWays(name: string, run: (world: World) => Promise<void>): void {
  for (const [way, variable] of [
    ['direct', 'PGPORT'],
    ['bouncer', 'BOUNCER_PORT'],
  ] as const) {
    const skip = process.env.CLIENT_SERVER ? false : 'needs the server of scripts/client-server';
    void test(`${name}, ${way}`, { skip, timeout: 90_000 }, async () => {
      const world = new World(Number(env(variable)));
      try {
        await run(world);
      } finally {
        await world.end();
      }
    });
  }
}

/** Name an event. */
export function text(event: Event | undefined): string {
  return event?.kind === 'gap' ? `gap ${event.lost}` : (event?.payload ?? 'none');
}

/** Read events; all but the last are acknowledged. */
export async function take(subscription: Subscription, count: number): Promise<string[]> {
  const taken: string[] = [];
  for await (const event of subscription) {
    taken.push(text(event));
    if (taken.length === count) {
      break;
    }
  }
  return taken;
}
