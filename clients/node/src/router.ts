import type { Event, Gap, Message } from './events.js';

/**
 * Calls a handler by the event's channel. Give its `handle` to `Subscription.handle`. An event
 * that has no handler is an error: events are not lost silently.
 */
export class Router<Result = unknown> {
  readonly #channels = new Map<string, (message: Message) => Result>();
  readonly #patterns: { pattern: RegExp; handler: (message: Message) => Result }[] = [];
  #gap?: (gap: Gap) => Result;
  #other?: (message: Message) => Result;

  /**
   * Set the handler of a channel, or of those that a pattern matches, in which * stands for any
   * run of characters. A channel's own handler goes before patterns, one pattern before those that
   * are set after it.
   */
  on(channel: string, handler: (message: Message) => Result): this {
    if (channel.includes('*')) {
      const parts = channel.split('*').map((part) => part.replace(/[\\^$.*+?()[\]{}|/-]/g, '\\$&'));
      this.#patterns.push({ pattern: new RegExp(`^${parts.join('.*')}$`, 's'), handler });
    } else {
      this.#channels.set(channel, handler);
    }
    return this;
  }

  /** Set the handler of gaps. */
  onGap(handler: (gap: Gap) => Result): this {
    this.#gap = handler;
    return this;
  }

  /** Set the handler of messages whose channel has none. */
  onOther(handler: (message: Message) => Result): this {
    this.#other = handler;
    return this;
  }

  /** Call the event's handler, and return what that returns. */
  readonly handle = (event: Event): Result => {
    if (event.kind === 'gap') {
      if (this.#gap === undefined) {
        throw new Error('gaps have no handler');
      }
      return this.#gap(event);
    }
    const handler =
      this.#channels.get(event.channel) ??
      this.#patterns.find(({ pattern }) => pattern.test(event.channel))?.handler ??
      this.#other;
    if (handler === undefined) {
      throw new Error(`channel "${event.channel}" has no handler`);
    }
    return handler(event);
  };
}
