/* SPDX-License-Identifier: MIT */
/*
 * A service whose connections can be taken to another replica, as a checkpoint
 * of its VM would: by TCP_REPAIR, for connections with nothing under way.
 *
 * For each byte it gets, it answers a hundred of the same.
 *
 * stdin:  save        prints the state of the only connection, in hexadecimal
 *         load HEX    makes it here
 * stdout: ready, then a line for each order
 */
#include <arpa/inet.h>
#include <errno.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define PORT 7001
#define ANSWER_BYTES 100
#define REPAIR_OFF_NO_PROBE -1
/* Numbers of TCP's options: the kernel's headers and libc's cannot be had together. */
#define OPTION_MSS 2
#define OPTION_WINDOW_SCALE 3
#define OPTION_SACK_PERMITTED 4
#define OPTION_TIMESTAMPS 8

struct saved {
	struct sockaddr_in local, remote;
	uint32_t sent_seq, received_seq, timestamp;
	struct tcp_repair_window window;
	struct tcp_info info;
	uint32_t mss;
};

static _Noreturn void fail(const char *what)
{
	perror(what);
	exit(1);
}

static void set(int fd, int option, const void *value, socklen_t bytes, const char *what)
{
	if (setsockopt(fd, IPPROTO_TCP, option, value, bytes) < 0)
		fail(what);
}

static void get(int fd, int option, void *value, socklen_t bytes, const char *what)
{
	if (getsockopt(fd, IPPROTO_TCP, option, value, &bytes) < 0)
		fail(what);
}

static void repair(int fd, int on)
{
	set(fd, TCP_REPAIR, &on, sizeof(on), "TCP_REPAIR");
}

static void choose_queue(int fd, int queue)
{
	set(fd, TCP_REPAIR_QUEUE, &queue, sizeof(queue), "TCP_REPAIR_QUEUE");
}

static void save(int fd)
{
	struct saved s = { 0 };
	socklen_t bytes = sizeof(s.local);

	repair(fd, 1);
	getsockname(fd, (struct sockaddr *)&s.local, &bytes);
	getpeername(fd, (struct sockaddr *)&s.remote, &bytes);
	choose_queue(fd, TCP_SEND_QUEUE);
	get(fd, TCP_QUEUE_SEQ, &s.sent_seq, sizeof(s.sent_seq), "TCP_QUEUE_SEQ");
	choose_queue(fd, TCP_RECV_QUEUE);
	get(fd, TCP_QUEUE_SEQ, &s.received_seq, sizeof(s.received_seq), "TCP_QUEUE_SEQ");
	choose_queue(fd, TCP_NO_QUEUE);
	get(fd, TCP_TIMESTAMP, &s.timestamp, sizeof(s.timestamp), "TCP_TIMESTAMP");
	get(fd, TCP_REPAIR_WINDOW, &s.window, sizeof(s.window), "TCP_REPAIR_WINDOW");
	get(fd, TCP_INFO, &s.info, sizeof(s.info), "TCP_INFO");
	get(fd, TCP_MAXSEG, &s.mss, sizeof(s.mss), "TCP_MAXSEG");
	repair(fd, REPAIR_OFF_NO_PROBE);
	for (size_t i = 0; i < sizeof(s); i++)
		printf("%02x", ((uint8_t *)&s)[i]);
	puts("");
}

static int load(const char *hex)
{
	struct tcp_repair_opt options[4];
	int count = 0, on = 1, fd = socket(AF_INET, SOCK_STREAM, 0);
	struct saved s;

	for (size_t i = 0; i < sizeof(s); i++) {
		unsigned byte;

		if (sscanf(hex + 2 * i, "%2x", &byte) != 1)
			fail("load");
		((uint8_t *)&s)[i] = byte;
	}
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	repair(fd, 1);
	choose_queue(fd, TCP_SEND_QUEUE);
	set(fd, TCP_QUEUE_SEQ, &s.sent_seq, sizeof(s.sent_seq), "TCP_QUEUE_SEQ");
	choose_queue(fd, TCP_RECV_QUEUE);
	set(fd, TCP_QUEUE_SEQ, &s.received_seq, sizeof(s.received_seq), "TCP_QUEUE_SEQ");
	choose_queue(fd, TCP_NO_QUEUE);
	if (bind(fd, (struct sockaddr *)&s.local, sizeof(s.local)) < 0)
		fail("bind");
	if (connect(fd, (struct sockaddr *)&s.remote, sizeof(s.remote)) < 0)
		fail("connect");
	options[count++] = (struct tcp_repair_opt){ OPTION_MSS, s.mss };
	if (s.info.tcpi_options & TCPI_OPT_WSCALE)
		options[count++] = (struct tcp_repair_opt){ OPTION_WINDOW_SCALE, s.info.tcpi_snd_wscale | s.info.tcpi_rcv_wscale << 16 };
	if (s.info.tcpi_options & TCPI_OPT_SACK)
		options[count++] = (struct tcp_repair_opt){ OPTION_SACK_PERMITTED, 0 };
	if (s.info.tcpi_options & TCPI_OPT_TIMESTAMPS)
		options[count++] = (struct tcp_repair_opt){ OPTION_TIMESTAMPS, 0 };
	set(fd, TCP_REPAIR_OPTIONS, options, count * sizeof(*options), "TCP_REPAIR_OPTIONS");
	set(fd, TCP_TIMESTAMP, &s.timestamp, sizeof(s.timestamp), "TCP_TIMESTAMP");
	set(fd, TCP_REPAIR_WINDOW, &s.window, sizeof(s.window), "TCP_REPAIR_WINDOW");
	repair(fd, REPAIR_OFF_NO_PROBE);
	puts("loaded");
	return fd;
}

static void answer(int fd)
{
	char asked[65536], answers[ANSWER_BYTES];
	ssize_t bytes = read(fd, asked, sizeof(asked));

	if (bytes <= 0)
		exit(0);
	for (ssize_t i = 0; i < bytes; i++) {
		memset(answers, asked[i], sizeof(answers));
		if (write(fd, answers, sizeof(answers)) != sizeof(answers))
			exit(0);
	}
}

int main(void)
{
	struct sockaddr_in any = { .sin_family = AF_INET, .sin_port = htons(PORT) };
	struct pollfd fds[3] = { { .fd = 0, .events = POLLIN }, { .events = POLLIN }, { .fd = -1, .events = POLLIN } };
	static char order[4096];
	int on = 1;

	setvbuf(stdout, NULL, _IOLBF, 0);
	fds[1].fd = socket(AF_INET, SOCK_STREAM, 0);
	setsockopt(fds[1].fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	if (bind(fds[1].fd, (struct sockaddr *)&any, sizeof(any)) < 0 || listen(fds[1].fd, 8) < 0)
		fail("listen");
	puts("ready");
	for (;;) {
		if (poll(fds, 3, -1) < 0)
			fail("poll");
		if (fds[0].revents) {
			ssize_t bytes = read(0, order, sizeof(order) - 1);

			if (bytes <= 0)
				return 0;
			order[bytes] = 0;
			if (!strncmp(order, "save", 4))
				save(fds[2].fd);
			else if (!strncmp(order, "load ", 5))
				fds[2].fd = load(order + 5);
		}
		if (fds[1].revents)
			fds[2].fd = accept(fds[1].fd, NULL, NULL);
		if (fds[2].fd >= 0 && fds[2].revents)
			answer(fds[2].fd);
	}
}
