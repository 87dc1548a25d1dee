/* SPDX-License-Identifier: MIT */
/*
 * A process with threads to be watched:
 *
 *   vcpu-threads {spin|nap|brief}:CPU ...
 *
 * One thread for each argument, on that CPU: `spin` computes, `nap` sleeps a
 * millisecond at a time, `brief` ends when it reads a line.  Prints their ids,
 * one a line, and ends with its standard input.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static pthread_mutex_t printing = PTHREAD_MUTEX_INITIALIZER;
static pthread_barrier_t started;
static pthread_mutex_t line = PTHREAD_MUTEX_INITIALIZER;

static void *work(void *arg)
{
	const char *task = arg;
	cpu_set_t cpus;

	CPU_ZERO(&cpus);
	CPU_SET(atoi(strchr(task, ':') + 1), &cpus);
	sched_setaffinity(0, sizeof(cpus), &cpus);
	pthread_mutex_lock(&printing);
	printf("%s %d\n", task, gettid());
	pthread_mutex_unlock(&printing);
	pthread_barrier_wait(&started);
	if (task[0] == 'b') {
		pthread_mutex_lock(&line);
		pthread_mutex_unlock(&line);
		return NULL;
	}
	for (;;)
		if (task[0] == 'n')
			usleep(1000);
	return NULL;
}

int main(int count, char **tasks)
{
	char byte;

	pthread_mutex_lock(&line);
	pthread_barrier_init(&started, NULL, count);
	for (int i = 1; i < count; i++) {
		pthread_t thread;
		pthread_create(&thread, NULL, work, tasks[i]);
	}
	pthread_barrier_wait(&started);
	printf("all\n");
	fflush(stdout);
	while (read(0, &byte, 1) == 1)
		pthread_mutex_unlock(&line);
	return 0;
}
