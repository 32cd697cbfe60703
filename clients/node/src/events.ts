import { type Value, parseExactly } from './json.js';

/** An event of a subscription: a message, or a gap where messages are missing. */
export type Event = Message | Gap;

/** Columns and their values. */
export type Row = Record<string, Value>;

/** What happened to a row, or to a table. */
export type Op = 'INSERT' | 'UPDATE' | 'DELETE' | 'TRUNCATE';

/** Thrown for a payload that is no change event, but a message of somebody's own. */
export class NotAChange extends Error {
  override readonly name = 'NotAChange';
}

/** Stands where events are missing: read again from the tables what you derived from them. */
export class Gap {
  readonly kind = 'gap';

  constructor(
    readonly seq: bigint,
    /** How many are missing; -1 if that is not known. */
    readonly lost: number,
  ) {}

  /** Whether the number of missing events is known. */
  get known(): boolean {
    return this.lost >= 0;
  }
}

/** An event that somebody published. */
export class Message {
  readonly kind = 'message';

  constructor(
    /** Numbers of one database increase, also over restarts, and mean nothing else. */
    readonly seq: bigint,
    readonly channel: string,
    readonly payload: string,
    /** The server process that published it. */
    readonly pid: number,
    /** When it was put onto the queue. */
    readonly relayedAt: Date,
  ) {}

  /**
   * Decode the payload of a change event in the format plain, cloudevents or debezium. Throws NotAChange if
   * it is none.
   */
  change(): Change {
    return decode(this.payload);
  }
}

/** What happened to one row. What the event does not carry is undefined. */
export interface RowChange {
  /** The primary key, or the replica identity. */
  key?: Row;
  /** The key before, if it changed. */
  oldKey?: Row;
  new?: Row;
  old?: Row;
  /** The columns that an UPDATE changed; the format debezium has none. */
  changed: string[];
}

/** A change event: of one row, or, attached with level 'statement', of rows. */
export interface Change extends RowChange {
  /** Unique: a key by which to know what was handled. */
  id: string;
  op: Op;
  schema: string;
  table: string;
  /** The leaf, if that is not the table. */
  partition?: string;
  txid?: bigint;
  pid?: number;
  time?: Date;
  /** The server's pgpubsub.node_name. */
  node?: string;
  /** It was too large, and came without its rows. */
  truncated: boolean;
  /** How many rows the statement has. */
  count?: number;
  rows: RowChange[];
  /** Which of how many parts this is, if a statement's event was split. */
  part?: number;
  parts?: number;
}

const ops: ReadonlySet<unknown> = new Set<Op>(['INSERT', 'UPDATE', 'DELETE', 'TRUNCATE']);

function isObject(value: Value | undefined): value is Row {
  return (
    typeof value === 'object' && value !== null && Object.getPrototypeOf(value) === Object.prototype
  );
}

/** The members that are there, under the names that they have here. */
function rowChange(value: Row): RowChange {
  const change: RowChange = { changed: (value.changed ?? []) as string[] };
  for (const [name, to] of [
    ['key', 'key'],
    ['old_key', 'oldKey'],
    ['new', 'new'],
    ['old', 'old'],
  ] as const) {
    const row = value[name];
    if (isObject(row)) {
      change[to] = row;
    }
  }
  return change;
}

const debeziumOps: ReadonlyMap<unknown, Op> = new Map([
  ['c', 'INSERT'],
  ['u', 'UPDATE'],
  ['d', 'DELETE'],
  ['t', 'TRUNCATE'],
]);

/** The members of Debezium's envelope, under the names that they have in the plain format. */
function ofDebezium(value: Row, source: Row): Row {
  const { before, after, ts_ms: time, ...others } = value;
  const plain: Row = { ...others, op: debeziumOps.get(value.op) ?? null };
  for (const [name, member] of Object.entries({
    old: before,
    new: after,
    schema: source.schema,
    table: source.table,
    partition: source.partition,
    txid: source.txId,
  })) {
    if (member !== undefined) {
      plain[name] = member;
    }
  }
  if (typeof time === 'number') {
    plain.ts = new Date(time).toISOString();
  }
  return plain;
}

function decode(payload: string): Change {
  let value: Value | undefined;
  try {
    value = parseExactly(payload);
  } catch {
    throw new NotAChange('the payload is not JSON');
  }
  if (isObject(value) && 'specversion' in value) {
    value = value.data;
  }
  if (isObject(value) && isObject(value.source)) {
    value = ofDebezium(value, value.source);
  }
  if (!isObject(value) || !ops.has(value.op) || typeof value.table !== 'string') {
    throw new NotAChange('the payload is not a change event');
  }
  const change: Change = {
    ...rowChange(value),
    id: text(value.id) ?? '',
    op: value.op as Op,
    schema: text(value.schema) ?? '',
    table: value.table,
    truncated: value.truncated === true,
    rows: Array.isArray(value.rows) ? value.rows.filter(isObject).map(rowChange) : [],
  };
  for (const name of ['partition', 'node'] as const) {
    const member = text(value[name]);
    if (member !== undefined) {
      change[name] = member;
    }
  }
  for (const name of ['pid', 'count', 'part', 'parts'] as const) {
    const member = value[name];
    if (typeof member === 'number') {
      change[name] = member;
    }
  }
  const { txid, ts } = value;
  if (typeof txid === 'number' || typeof txid === 'bigint') {
    change.txid = BigInt(txid);
  }
  if (typeof ts === 'string') {
    change.time = new Date(ts);
  }
  return change;
}

function text(value: Value | undefined): string | undefined {
  return typeof value === 'string' ? value : undefined;
}
