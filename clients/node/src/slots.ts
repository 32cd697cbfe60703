/** How long it takes about until all that share too few slots had one, in ms. */
export const turn = 200;
/** Bounds what taking turns costs, in ms. */
const shortestWait = 10;

/**
 * Bounds how many of a client's consumers wait at the same time. Each that does occupies a
 * connection of the pool, and behind a pooler one of the server.
 */
export class Slots {
  consumers = 0;
  #free: number;
  readonly #queue: (() => void)[] = [];

  /** `shared`: all connections there are may be waiting, and have to serve others, too. */
  constructor(
    readonly count: number,
    readonly shared: boolean,
  ) {
    this.#free = count;
  }

  /** Wait for a slot; who came first gets one first. An abort throws the signal's reason. */
  async take(signal: AbortSignal | undefined): Promise<void> {
    signal?.throwIfAborted();
    if (this.#free > 0) {
      this.#free--;
      return;
    }
    await new Promise<void>((resolve, reject) => {
      const abort = () => {
        this.#queue.splice(this.#queue.indexOf(enter), 1);
        reject(signal?.reason as Error);
      };
      const enter = () => {
        signal?.removeEventListener('abort', abort);
        resolve();
      };
      this.#queue.push(enter);
      signal?.addEventListener('abort', abort, { once: true });
    });
  }

  /** Hand the slot on. */
  release(): void {
    const next = this.#queue.shift();
    if (next) {
      next();
    } else {
      this.#free++;
    }
  }

  /** How long who has a slot may keep it, in ms: as long as it likes while there are enough. */
  share(longest: number): number {
    if (this.consumers <= this.count && !this.shared) {
      return longest;
    }
    const share = (turn * this.count) / Math.max(this.consumers, this.count);
    return Math.min(longest, Math.max(share, shortestWait));
  }
}
