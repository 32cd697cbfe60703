import type { CustomTypesConfig, Pool, PoolClient, QueryResult } from 'pg';

import { type Event, Gap, Message } from './events.js';
import { Backoff, HandlerError, codeOf, isPermanent, pauseFor } from './retry.js';
import { Slots, turn } from './slots.js';

/** Called for what there is to count; none may throw. */
export interface Hooks {
  /** Events came from the server. */
  received?: (subscription: string, events: readonly Event[]) => void;
  /** The server has taken note that so many events were handled. */
  consumed?: (subscription: string, count: number) => void;
  /** Something failed, and is tried again after a pause, in ms. */
  retry?: (subscription: string, error: unknown, pause: number) => void;
  /** Something failed, was tried again, and has succeeded. */
  recovered?: (subscription: string) => void;
  /** Something failed and is not tried again; handled events may come again. */
  warning?: (message: string, error: unknown) => void;
}

/** What a client does; the defaults are good for most. Times are in ms. */
export interface ClientOptions {
  /** How many events a consumer fetches at a time; 100. */
  batchSize?: number;
  /**
   * How many consumers wait for events at the same time, each with a connection of the pool. With
   * more than that they take turns. Half of the pool's connections, at least one.
   */
  maxWaiting?: number;
  /** The longest time for which the server is asked to wait before it is asked again; 30,000. */
  wait?: number;
  /** How often events are acknowledged while a batch is being handled; 1,000. */
  ackInterval?: number;
  /** Bounds each call to the server, above what that waits for; 30,000. */
  callTimeout?: number;
  /** The longest pause between two tries; 30,000. */
  maxPause?: number;
  hooks?: Hooks;
}

/** How to subscribe. */
export interface SubscribeOptions {
  /** What becomes of a subscription that holds up a full queue; evict. */
  onFull?: 'evict' | 'drop' | 'block';
  /** now, oldest, a sequence number or, on durable channels, a time; now. */
  startAt?: string;
}

/** How to read. */
export interface IterateOptions {
  /** Ends the loop, at any moment and without losing an event: it throws the signal's reason. */
  signal?: AbortSignal;
}

/** Handles a batch of events in the transaction that consumes them. */
export type TransactionHandler = (transaction: PoolClient, batch: Event[]) => unknown;

type Settings = Required<Omit<ClientOptions, 'hooks' | 'maxWaiting'>> & { hooks: Hooks };

const subscribeSQL = 'SELECT pgpubsub.subscribe($1::text, $2::text[], $3::text, $4::text)';
const unsubscribeSQL = 'SELECT pgpubsub.unsubscribe($1::text) AS value';
const waitSQL = 'CALL pgpubsub.wait($1::text, $2::text::interval)';
const pollSQL =
  'SELECT seq, channel, payload, pid, extract(epoch FROM relayed_at) AS relayed_at, lost' +
  " FROM pgpubsub.poll($1::text, $2::bigint, '0', $3::boolean)";
const ackSQL = 'SELECT pgpubsub.ack($1::text, $2::bigint) AS value';

/** Leave values as the server wrote them, whatever parsers the program has set. */
const asText: CustomTypesConfig = { getTypeParser: () => (value: string) => value };

type PollRow =
  | { seq: string; channel: string; payload: string; pid: string; relayed_at: string; lost: null }
  | { seq: string; lost: string };

function eventOf(row: PollRow): Event {
  if (row.lost !== null) {
    return new Gap(BigInt(row.seq), Number(row.lost));
  }
  const relayedAt = new Date(Number(row.relayed_at) * 1000);
  return new Message(BigInt(row.seq), row.channel, row.payload, Number(row.pid), relayedAt);
}

/** What pg's types do not have, or not everywhere. */
interface PoolDetails {
  options?: { max?: number };
  ending?: boolean;
}

// A connection that goes away between two queries tells so by an event, which
// ends the program if nobody listens; the next query tells it, too.
const ignore = () => undefined;

/**
 * Reads subscriptions over one pool, any number at the same time.
 *
 * A connection of the pool is taken for as long as it is needed; the pool stays the caller's, to
 * use and to end. Nothing is left on a connection, and no statement is prepared, so it may be one
 * of a pooler in transaction mode.
 */
export class Client {
  /** @internal */
  readonly settings: Settings;
  /** @internal */
  readonly slots: Slots;

  constructor(
    /** @internal */
    readonly pool: Pool,
    options: ClientOptions = {},
  ) {
    this.settings = {
      batchSize: options.batchSize ?? 100,
      wait: options.wait ?? 30_000,
      ackInterval: options.ackInterval ?? 1000,
      callTimeout: options.callTimeout ?? 30_000,
      maxPause: options.maxPause ?? 30_000,
      hooks: options.hooks ?? {},
    };
    const connections = (pool as PoolDetails).options?.max ?? 10;
    const waiting = options.maxWaiting ?? Math.max(1, Math.floor(connections / 2));
    this.slots = new Slots(waiting, waiting >= connections);
    if (pool.listenerCount('error') === 0) {
      pool.on('error', ignore);
    }
  }

  /**
   * Create the subscription, or give one that stands already these channels and this `onFull`;
   * that one keeps its position. In a channel's name, * stands for any run of characters. When
   * this has resolved, every event of a transaction that commits afterwards will be handed out, or
   * counted in a gap. Unlike the loops, it does not try again: a program that cannot subscribe
   * when it starts is best told why.
   */
  async subscribe(
    name: string,
    channels: readonly string[],
    { onFull = 'evict', startAt = 'now' }: SubscribeOptions = {},
  ): Promise<Subscription> {
    await this.query(subscribeSQL, [name, channels, onFull, startAt]);
    return this.open(name);
  }

  /** Return a handle on a subscription that somebody has created. */
  open(name: string): Subscription {
    return new Subscription(this, name);
  }

  /** Drop the subscription; whether there was one. */
  async unsubscribe(name: string): Promise<boolean> {
    const { rows } = await this.query<{ value: string }>(unsubscribeSQL, [name]);
    return rows[0]?.value === 't';
  }

  /**
   * Use a connection of the pool. One on which something has failed is closed, unless the server
   * has said that only the statement did.
   * @internal
   */
  async connection<Result>(use: (connection: PoolClient) => Promise<Result>): Promise<Result> {
    const connection = await this.pool.connect();
    connection.on('error', ignore);
    let failure: unknown;
    try {
      return await use(connection);
    } catch (error) {
      failure = error;
      throw error;
    } finally {
      connection.removeListener('error', ignore);
      const severity = (failure as { severity?: string } | undefined)?.severity;
      connection.release(failure !== undefined && severity !== 'ERROR');
    }
  }

  /**
   * Call a single statement. At the signal, or when it takes too long, its connection is closed,
   * at which the server gives it up.
   * @internal
   */
  async query<Row extends object>(
    text: string,
    values: unknown[],
    { signal, longest = 0 }: IterateOptions & { longest?: number } = {},
  ): Promise<QueryResult<Row>> {
    signal?.throwIfAborted();
    const late = AbortSignal.timeout(longest + this.settings.callTimeout);
    const ends = signal ? [signal, late] : [late];
    return await this.connection(async (connection) => {
      const query = connection.query<Row>({ text, values, types: asText });
      // it fails, too, when its connection is closed
      query.catch(ignore);
      let stop: (() => void) | undefined;
      const ended = new Promise<never>((_resolve, reject) => {
        stop = () => {
          reject((signal?.aborted ? signal.reason : late.reason) as Error);
        };
        for (const end of ends) {
          end.addEventListener('abort', stop);
        }
        if (ends.some((end) => end.aborted)) {
          stop();
        }
      });
      try {
        return await Promise.race([query, ended]);
      } finally {
        for (const end of ends) {
          end.removeEventListener('abort', stop ?? ignore);
        }
      }
    });
  }

  /** @internal */
  get ended(): boolean {
    return (this.pool as PoolDetails).ending === true;
  }
}

/**
 * A handle on a subscription, and the loops that read it.
 *
 * One consumer at a time should read a subscription. A second one that reads it with
 * `handleInTransaction` takes turns with the first; with the other forms, both may be handed the
 * same events.
 */
export class Subscription implements AsyncIterable<Event> {
  constructor(
    /** @internal */
    readonly client: Client,
    readonly name: string,
  ) {}

  /** As events(). */
  [Symbol.asyncIterator](): AsyncGenerator<Event, never> {
    return this.events();
  }

  /**
   * Iterate over the events from now on, each at least once: one counts as handled when the loop
   * asks for the next, and comes again if the loop is left in its body. It ends with an error: that
   * of the signal, or one that no retry would cure.
   */
  async *events({ signal }: IterateOptions = {}): AsyncGenerator<Event, never> {
    const consumer = new Consumer(this, signal);
    try {
      for (;;) {
        for (const event of await consumer.look(this.client.settings.batchSize)) {
          signal?.throwIfAborted();
          await consumer.ackInTime();
          yield event;
          consumer.handled = event.seq;
        }
        await consumer.ack();
      }
    } finally {
      await consumer.leave();
    }
  }

  /**
   * As events, but hand out what there is, at most `limit` events at a time. A batch counts as
   * handled when the loop asks for the next.
   */
  async *batches({
    signal,
    limit = this.client.settings.batchSize,
  }: IterateOptions & { limit?: number } = {}): AsyncGenerator<Event[], never> {
    const consumer = new Consumer(this, signal);
    try {
      for (;;) {
        const batch = await consumer.look(limit);
        const last = batch.at(-1);
        if (last) {
          yield batch;
          consumer.handled = last.seq;
          await consumer.ack();
        }
      }
    } finally {
      await consumer.leave();
    }
  }

  /**
   * Call the handler for each event, at least once. What it throws ends this; that event comes
   * again at the next time.
   */
  async handle(handler: (event: Event) => unknown, options: IterateOptions = {}): Promise<never> {
    for await (const event of this.events(options)) {
      await handler(event);
    }
    throw new Error('unreachable: events() ends with an error');
  }

  /**
   * Call the handler for batches of events, in the transaction that consumes them. The transaction
   * commits what the handler wrote with its connection, and that the events were consumed. So each
   * event takes effect exactly once; also if the connection is lost in the commit. What the
   * handler throws rolls back and ends this; but if the connection was lost, or the transaction
   * could not be serialized, it is tried again, with the same events. The signal ends it between
   * two batches.
   */
  async handleInTransaction(
    handler: TransactionHandler,
    { signal }: IterateOptions = {},
  ): Promise<never> {
    const consumer = new Consumer(this, signal);
    try {
      for (;;) {
        await consumer.transaction(handler);
      }
    } catch (error) {
      throw error instanceof HandlerError ? error.thrown : error;
    } finally {
      await consumer.leave();
    }
  }

  /**
   * Consume at most `limit` events in the caller's transaction, without waiting: they are consumed
   * if it commits, and come again if it rolls back.
   */
  async poll(transaction: PoolClient, limit = 100): Promise<Event[]> {
    const { rows } = await transaction.query<PollRow>({
      text: pollSQL,
      values: [this.name, limit, true],
      types: asText,
    });
    return this.received(rows);
  }

  /**
   * Consume all events up to and including that one; how many that were. The loops do so
   * themselves.
   */
  async ack(seq: bigint): Promise<number> {
    const { rows } = await this.client.query<{ value: string }>(ackSQL, [this.name, String(seq)]);
    const count = Number(rows[0]?.value);
    this.client.settings.hooks.consumed?.(this.name, count);
    return count;
  }

  /** @internal */
  received(rows: PollRow[]): Event[] {
    const events = rows.map(eventOf);
    if (events.length > 0) {
      this.client.settings.hooks.received?.(this.name, events);
    }
    return events;
  }
}

/** The state of one loop. */
class Consumer {
  /** What is to be acknowledged, up to this. */
  handled: bigint | undefined;
  readonly #client: Client;
  readonly #backoff: Backoff;
  #full = false; // the last batch was: there may be more already
  #longest = turn; // of the next wait, in ms
  #ackedAt = Date.now();

  /** Ends the loop. One of its own: Node.js warns of a leak where many listen to one signal. */
  readonly signal: AbortSignal | undefined;

  constructor(
    readonly subscription: Subscription,
    signal: AbortSignal | undefined,
  ) {
    this.signal = signal && AbortSignal.any([signal]);
    this.#client = subscription.client;
    this.#backoff = new Backoff(this.#client.settings.maxPause);
    this.#client.slots.consumers++;
  }

  /** Acknowledge what was handled, once; what that fails for comes again. */
  async leave(): Promise<void> {
    this.#client.slots.consumers--;
    if (this.handled !== undefined) {
      try {
        await this.subscription.ack(this.handled);
      } catch (error) {
        this.#warn('handled events were not acknowledged, and come again', error);
      }
    }
  }

  /** Wait for events, and look at them. */
  async look(limit: number): Promise<Event[]> {
    return await this.#try(async () => {
      await this.#wait();
      const { rows } = await this.#client.query<PollRow>(
        pollSQL,
        [this.subscription.name, limit, false],
        this.#signal,
      );
      this.#full = rows.length >= limit;
      return this.subscription.received(rows);
    });
  }

  /** Acknowledge what was handled if that was not done for long. */
  async ackInTime(): Promise<void> {
    if (Date.now() - this.#ackedAt >= this.#client.settings.ackInterval) {
      await this.ack();
    }
  }

  /**
   * Acknowledge what was handled. This may be repeated, also on a server that has restarted in the
   * meantime: what was not handed out yet has higher numbers. A server that does not know the
   * number (a standby that was promoted, say) is asked for its events again.
   */
  async ack(): Promise<void> {
    const { handled } = this;
    if (handled === undefined) {
      return;
    }
    try {
      await this.#try(() => this.subscription.ack(handled));
    } catch (error) {
      if (codeOf(error) !== '22023') {
        throw error;
      }
      this.#warn('the server may send handled events again', error);
    }
    this.handled = undefined;
    this.#ackedAt = Date.now();
  }

  /** Handle one batch in one transaction. */
  async transaction(handler: TransactionHandler): Promise<void> {
    const { batchSize, hooks } = this.#client.settings;
    await this.#try(async () => {
      await this.#wait();
      this.#full = false;
      const count = await this.#client.connection(async (connection) => {
        await connection.query('BEGIN');
        try {
          const batch = await this.subscription.poll(connection, batchSize);
          if (batch.length > 0) {
            await this.#call(handler, connection, batch);
          }
          const { command } = await connection.query('COMMIT');
          if (command !== 'COMMIT') {
            throw new HandlerError(
              new Error('the transaction was rolled back: the handler has ignored an error'),
            );
          }
          this.#full = batch.length >= batchSize;
          return batch.filter(({ kind }) => kind === 'message').length;
        } catch (error) {
          await rollBack(connection, error);
          throw error;
        }
      });
      if (count > 0) {
        hooks.consumed?.(this.subscription.name, count);
      }
    });
  }

  async #call(handler: TransactionHandler, connection: PoolClient, batch: Event[]): Promise<void> {
    try {
      await handler(connection, batch);
    } catch (error) {
      if (codeOf(error) !== '40001' && codeOf(error) !== '40P01') {
        throw new HandlerError(error);
      }
      throw error;
    }
  }

  /**
   * Return when there may be something to read. It holds no snapshot. The first waits are
   * short, and then ever longer: of consumers that begin together the first ones must not keep
   * all slots before it is known how many there are.
   */
  async #wait(): Promise<void> {
    if (this.#full) {
      return;
    }
    const { slots, settings } = this.#client;
    await slots.take(this.signal);
    try {
      const longest = Math.round(slots.share(Math.min(this.#longest, settings.wait)));
      this.#longest = Math.min(2 * this.#longest, settings.wait);
      await this.#client.query(waitSQL, [this.subscription.name, `${longest} ms`], {
        ...this.#signal,
        longest,
      });
    } finally {
      slots.release();
    }
  }

  /** Call a function until it succeeds, the signal aborts or the error is permanent. */
  async #try<Result>(call: () => Promise<Result>): Promise<Result> {
    const { hooks } = this.#client.settings;
    for (;;) {
      try {
        this.signal?.throwIfAborted();
        const result = await call();
        if (this.#backoff.succeeded()) {
          hooks.recovered?.(this.subscription.name);
        }
        return result;
      } catch (error) {
        this.signal?.throwIfAborted();
        if (isPermanent(error) || this.#client.ended) {
          throw error;
        }
        this.#full = false;
        const pause = this.#backoff.pause(error);
        hooks.retry?.(this.subscription.name, error, pause);
        await pauseFor(pause, this.signal);
      }
    }
  }

  get #signal(): IterateOptions {
    return this.signal ? { signal: this.signal } : {};
  }

  #warn(message: string, error: unknown): void {
    this.#client.settings.hooks.warning?.(`${this.subscription.name}: ${message}`, error);
  }
}

/**
 * Roll back a transaction that failed. If that fails, the connection is lost; then this throws, and
 * what the handler threw was perhaps for that.
 */
async function rollBack(connection: PoolClient, error: unknown): Promise<void> {
  try {
    await connection.query('ROLLBACK');
  } catch (lost) {
    throw error instanceof HandlerError ? lost : error;
  }
}
