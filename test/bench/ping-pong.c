/* SPDX-License-Identifier: MIT */
/*
 * How long a context switch takes:
 *
 *   ping-pong ROUNDS
 *
 * Two processes on one CPU wake each other through pipes.  Prints its
 * process id; then measures once for each line it reads, and prints the
 * microseconds of a round: there and back, which is two context
 * switches.
 */
#define _GNU_SOURCE
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <signal.h>
#include <time.h>
#include <unistd.h>

static void pass(int from, int to)
{
	char byte = 0;

	if (read(from, &byte, 1) != 1 || write(to, &byte, 1) != 1)
		exit(0);
}

int main(int argc, char **argv)
{
	int ping[2], pong[2];
	struct timespec from, to;
	cpu_set_t cpu;
	char line[8];
	long rounds;

	CPU_ZERO(&cpu);
	CPU_SET(0, &cpu);
	if (argc != 2 || sched_setaffinity(0, sizeof(cpu), &cpu) || pipe(ping) || pipe(pong))
		return 2;
	rounds = atol(argv[1]);
	if (fork() == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		for (;;)
			pass(ping[0], pong[1]);
	}
	printf("%d\n", getpid());
	fflush(stdout);
	while (fgets(line, sizeof(line), stdin)) {
		clock_gettime(CLOCK_MONOTONIC, &from);
		for (long i = 0; i < rounds; i++) {
			if (write(ping[1], line, 1) != 1)
				return 1;
			if (read(pong[0], line, 1) != 1)
				return 1;
		}
		clock_gettime(CLOCK_MONOTONIC, &to);
		printf("%.4f\n", ((to.tv_sec - from.tv_sec) * 1e9 + (to.tv_nsec - from.tv_nsec)) / 1e3 / rounds);
		fflush(stdout);
	}
	return 0;
}
