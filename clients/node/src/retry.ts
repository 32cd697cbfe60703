import { setTimeout as sleep } from 'node:timers/promises';

const firstPause = 100;
/** The longest pause while another session reads the subscription. */
const inUsePause = 1000;

/**
 * Classes of SQLSTATEs that stay however often the same is tried: a wrong argument, login or
 * privilege, a missing subscription, extension or database.
 */
const permanentClasses: ReadonlySet<string> = new Set(['0A', '22', '28', '3D', '3F', '42']);

/** The SQLSTATE of an error of the server, or the code of one of the system. */
export function codeOf(error: unknown): string {
  const code: unknown = error instanceof Error && 'code' in error ? error.code : undefined;
  return typeof code === 'string' ? code : '';
}

/** Whether a failure stays one, however often the same is tried. */
export function isPermanent(error: unknown): boolean {
  const code = codeOf(error);
  return (
    !(error instanceof Error) ||
    error instanceof TypeError ||
    error instanceof HandlerError ||
    (code.length === 5 && permanentClasses.has(code.slice(0, 2)))
  );
}

/** A handler has thrown, and is not to be called again. */
export class HandlerError extends Error {
  constructor(readonly thrown: unknown) {
    super('the handler has thrown');
  }
}

/** The pauses between tries: random, and at most twice as long each time. */
export class Backoff {
  #next = 0;

  constructor(readonly limit: number) {}

  /** Begin anew; whether there was a failure. */
  succeeded(): boolean {
    const failed = this.#next > 0;
    this.#next = 0;
    return failed;
  }

  /** How long to wait after this failure, in ms. */
  pause(error: unknown): number {
    const limit = codeOf(error) === '55006' ? Math.min(this.limit, inUsePause) : this.limit;
    this.#next ||= firstPause;
    const longest = Math.min(this.#next, limit);
    this.#next = Math.min(2 * this.#next, this.limit);
    // at least half of it, so that the first tries do not come all at once
    return longest * (0.5 + Math.random() / 2);
  }
}

/** Wait; an abort throws the signal's reason. */
export async function pauseFor(ms: number, signal: AbortSignal | undefined): Promise<void> {
  try {
    await sleep(ms, undefined, signal ? { signal } : {});
  } catch (error) {
    signal?.throwIfAborted();
    throw error;
  }
}
