/** bpftool, for tests alone: the machine's, or one fetched from Debian and unpacked, not installed. */
import { execFileSync } from 'node:child_process';
import { mkdirSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { root } from './skeleton-support.js';

/** Earlier ones do not know arenas. */
const MIN_LIBBPF = 1.4;

function isRecent(path: string): boolean {
  try {
    const version = execFileSync(path, ['version'], { encoding: 'utf8', stdio: 'pipe' });
    return Number(/libbpf v(\d+\.\d+)/.exec(version)?.[1] ?? 0) >= MIN_LIBBPF;
  } catch {
    return false;
  }
}

function find(): string {
  const cache = join(root, 'build/test/bpftool');
  const unpacked = join(cache, 'usr/sbin/bpftool');
  for (const path of ['bpftool', unpacked]) if (isRecent(path)) return path;
  mkdirSync(cache, { recursive: true });
  const codename = /^VERSION_CODENAME=(\w+)/m.exec(readFileSync('/etc/os-release', 'utf8'))?.[1] ?? '';
  // Older releases have a recent one only among their backports.
  const failures: string[] = [];
  for (const name of [`bpftool/${codename}-backports`, 'bpftool']) {
    try {
      execFileSync('apt-get', ['-q', 'download', name], { cwd: cache, encoding: 'utf8', stdio: 'pipe' });
      for (const file of readdirSync(cache)) {
        if (file.endsWith('.deb')) execFileSync('dpkg', ['-x', join(cache, file), cache], { stdio: 'pipe' });
      }
      if (isRecent(unpacked)) return unpacked;
      failures.push(`${name} is too old`);
    } catch (error) {
      failures.push((error as Error).message);
    }
  }
  throw new Error(
    `this test compares with bpftool on libbpf ${MIN_LIBBPF} or newer, which is neither installed nor to be had: ${failures.join('; ')}`,
  );
}

let found: string | undefined;

/** Runs bpftool and returns what it prints. */
export function bpftool(...args: string[]): string {
  found ??= find();
  return execFileSync(found, args, { encoding: 'utf8', maxBuffer: 1 << 28, stdio: 'pipe' });
}
