export { Client, Subscription } from './client.js';
export type {
  ClientOptions,
  Hooks,
  IterateOptions,
  SubscribeOptions,
  TransactionHandler,
} from './client.js';
export { Gap, Message, NotAChange } from './events.js';
export type { Change, Event, Op, Row, RowChange } from './events.js';
export { Decimal } from './json.js';
export type { Value } from './json.js';
export { Router } from './router.js';
