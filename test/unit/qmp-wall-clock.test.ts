import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { WallClock } from '../../src/qemu/wall-clock.js';

/** Two clocks of one host, `offsetNs` apart; the wall clock is read in whole milliseconds. */
class Host {
  nowNs = 5_000_000_123n;
  offsetNs = 1_700_000_000_000_456_789n;
  readonly clock = new WallClock(
    () => Number((this.nowNs + this.offsetNs) / 1_000_000n),
    () => (this.nowNs += 150n), // a reading takes its time
  );

  /** A stamp as QEMU would make it now, and what it should convert to. */
  errorNs(): bigint {
    const trueNs = this.nowNs;
    const wallUs = Number((trueNs + this.offsetNs) / 1000n);
    const error = this.clock.toMonotonicNs(wallUs) - trueNs;
    return error < 0n ? -error : error;
  }
}

test('one reading is good to a millisecond', () => {
  const host = new Host();
  assert.ok(host.errorNs() <= 1_000_000n);
});

test('a millisecond of readings is good to some microseconds', () => {
  const host = new Host();
  host.clock.settle();
  assert.ok(host.clock.uncertaintyNs < 1000n);
  assert.ok(host.errorNs() < 3000n);
});

test('readings at odd times narrow it down as well', () => {
  const host = new Host();
  for (let i = 0; i < 300; i++) {
    host.nowNs += 10_037_411n;
    host.clock.sample();
  }
  assert.ok(host.errorNs() < 50_000n);
});

test('a stepped wall clock is noticed at the next reading', () => {
  const host = new Host();
  host.clock.settle();
  for (const stepNs of [7_200_000_000_000n, -3_000_000_000n]) {
    host.offsetNs += stepNs;
    host.clock.sample();
    assert.ok(host.errorNs() <= 1_001_000n);
  }
});

test("this host's own clocks agree", () => {
  const clock = new WallClock();
  clock.settle();
  const before = process.hrtime.bigint();
  const converted = clock.toMonotonicNs(Date.now() * 1000);
  assert.ok(converted > before - 1_100_000n);
  assert.ok(converted < process.hrtime.bigint() + 100_000n);
});

test.run();
