import { randomUUID } from 'node:crypto';

/**
 * A number with a fraction or an exponent, as the server wrote it, with every digit. It can be
 * used as a number (`2 * price`, `price < 10`), with a number's precision, and as a string.
 */
export class Decimal {
  constructor(readonly text: string) {}

  toString(): string {
    return this.text;
  }

  valueOf(): number {
    return Number(this.text);
  }

  toJSON(): string {
    return this.text;
  }
}

/**
 * What JSON holds. Integers are numbers, or bigints beyond what a number holds exactly; all other
 * numbers are Decimals.
 */
export type Value =
  | null
  | boolean
  | string
  | number
  | bigint
  | Decimal
  | Value[]
  | { [name: string]: Value };

// Strings, which are left alone, and numbers. JSON.parse knows what is valid.
const token = /"[^"\\]*(?:\\.[^"\\]*)*"|-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?/gs;

// The name under which an exact number passes through JSON.parse; nobody else knows it.
const exact = `exact number ${randomUUID()}`;

/** JSON.parse that keeps each number's digits. */
export function parseExactly(text: string): Value {
  const marked = text.replace(token, (part) => {
    if (part.startsWith('"') || (/^-?\d+$/.test(part) && Number.isSafeInteger(Number(part)))) {
      return part;
    }
    return `{"${exact}":"${part}"}`;
  });
  const plain = JSON.parse(text) as Value; // what is no JSON fails here
  if (marked === text) {
    return plain;
  }
  return JSON.parse(marked, (_name, value: unknown) => {
    if (typeof value === 'object' && value !== null && Object.hasOwn(value, exact)) {
      const number = (value as Record<string, string>)[exact] ?? '';
      return /^-?\d+$/.test(number) ? BigInt(number) : new Decimal(number);
    }
    return value;
  }) as Value;
}
