/* SPDX-License-Identifier: MIT */
/*
 * What stands at the taps while the hold thread is measured.
 *
 *   peer flood GUEST SHADOW|- CLIENT BYTES GSO COUNT
 *                                               a guest that sends COUNT frames of one TCP stream;
 *                                               and the secondary's, which says the same
 *   peer ping GUEST SHADOW|- CLIENT COUNT       sends one frame at a time, and prints how long each
 *                                               took to the client, in nanoseconds
 *   peer loop HOLD SHADOW|-                     the plain loop: reads, and writes back at once
 *
 * Each prints a line once its taps are open.  `flood` and `ping` begin when their input ends.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_ether.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "wire.h"

#ifndef TUN_F_USO4
#define TUN_F_USO4 0x20
#define TUN_F_USO6 0x40
#endif

#define HEADER_BYTES (ETH_HLEN + 20 + 20)
#define FRAME_MAX (64 * 1024 + HEADER_BYTES)
#define PING_TIMEOUT_NS 1000000000ull
#define PING_PAUSE_US 500

struct vnet {
	uint8_t flags, gso_type;
	uint16_t hdr_len, gso_size, csum_start, csum_offset;
};

static _Noreturn void fail(const char *what)
{
	perror(what);
	exit(1);
}

static int open_tap(const char *name, int flags)
{
	unsigned offloads = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN;
	struct ifreq request = { .ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR };
	int fd;

	if (strcmp(name, "-") == 0)
		return -1;
	fd = open("/dev/net/tun", O_RDWR | flags);
	if (fd < 0)
		fail("/dev/net/tun");
	strncpy(request.ifr_name, name, IFNAMSIZ - 1);
	if (ioctl(fd, TUNSETIFF, &request) < 0)
		fail("TUNSETIFF");
	if (ioctl(fd, TUNSETOFFLOAD, offloads | TUN_F_USO4 | TUN_F_USO6) < 0 && ioctl(fd, TUNSETOFFLOAD, offloads) < 0)
		fail("TUNSETOFFLOAD");
	return fd;
}

static void ready(void)
{
	puts("ready");
	fflush(stdout);
}

static uint64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* ---- the guest ---- */

static struct packet {
	struct vnet vnet;
	uint8_t frame[FRAME_MAX];
} __attribute__((packed)) packet;
static size_t frame_bytes;

static void put16(size_t at, uint16_t value)
{
	value = htons(value);
	memcpy(packet.frame + at, &value, sizeof(value));
}

static void put32(size_t at, uint32_t value)
{
	value = htonl(value);
	memcpy(packet.frame + at, &value, sizeof(value));
}

static uint16_t ip_checksum(void)
{
	uint32_t sum = 0;

	for (int i = 0; i < 20; i += 2)
		sum += (uint32_t)(packet.frame[ETH_HLEN + i] << 8 | packet.frame[ETH_HLEN + i + 1]);
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return (uint16_t)~sum;
}

static void make_frame(size_t bytes, unsigned gso)
{
	static const uint8_t addresses[] = { 10, 0, 0, 1, 10, 0, 0, 2 };

	frame_bytes = bytes;
	if (bytes <= HEADER_BYTES || bytes > FRAME_MAX)
		fail("bytes");
	memset(packet.frame, 2, ETH_ALEN);
	memset(packet.frame + ETH_ALEN, 6, ETH_ALEN);
	put16(12, ETH_P_IP);
	packet.frame[14] = 0x45;
	put16(16, (uint16_t)(bytes - ETH_HLEN));
	packet.frame[22] = 64;
	packet.frame[23] = 6;
	memcpy(packet.frame + 26, addresses, sizeof(addresses));
	put16(24, ip_checksum());
	put16(34, 80);
	put16(36, 40000);
	put32(42, 5000);
	packet.frame[46] = 0x50;
	packet.frame[47] = 0x10;
	put16(48, 500);
	for (size_t at = HEADER_BYTES; at < bytes; at++)
		packet.frame[at] = (uint8_t)(at * 31);
	if (gso)
		packet.vnet = (struct vnet){ 1, 1, HEADER_BYTES, (uint16_t)gso, 34, 16 };
}

static void set_seq(uint32_t number)
{
	put32(38, 1000 + number * (uint32_t)(frame_bytes - HEADER_BYTES));
}

static void send_to(int fd)
{
	size_t bytes = sizeof(packet.vnet) + frame_bytes;

	if (fd >= 0 && write(fd, &packet, bytes) != (ssize_t)bytes)
		fail("write to a tap");
}

static void wait_for_order(void)
{
	char byte;

	while (read(STDIN_FILENO, &byte, 1) > 0)
		;
}

static void flood(int guest, int shadow, uint32_t count)
{
	ready();
	wait_for_order();
	for (uint32_t i = 0; i < count; i++) {
		set_seq(i);
		send_to(guest);
		send_to(shadow);
	}
	pause(); /* without it the taps would be down */
}

static void ping(int guest, int shadow, int client, uint32_t count)
{
	static uint8_t incoming[sizeof(packet)];

	ready();
	wait_for_order();
	for (uint32_t i = 0; i < count; i++) {
		uint64_t start_ns, end_ns;

		usleep(PING_PAUSE_US);
		set_seq(i);
		while (read(client, incoming, sizeof(incoming)) > 0)
			;
		if (shadow >= 0) {
			/* Held first: what is timed is the release. */
			send_to(guest);
			usleep(PING_PAUSE_US);
		}
		start_ns = now_ns();
		send_to(shadow >= 0 ? shadow : guest);
		while (read(client, incoming, sizeof(incoming)) < 0) {
			if (errno != EAGAIN || now_ns() - start_ns > PING_TIMEOUT_NS)
				fail("the client");
		}
		end_ns = now_ns();
		printf("%llu\n", (unsigned long long)(end_ns - start_ns));
	}
}

/* ---- the plain loop ---- */

/* False: nothing more for now. */
static int turn(int from, int to, size_t tag_bytes)
{
	static uint8_t tag[64], frame[FRAME_MAX];
	struct vnet vnet;
	struct iovec in[] = { { &vnet, sizeof(vnet) }, { tag, tag_bytes }, { frame, sizeof(frame) } };
	ssize_t bytes = readv(from, in, 3);
	struct iovec out[] = { { &vnet, sizeof(vnet) }, { frame, 0 } };

	if (bytes < 0) {
		if (errno == EAGAIN)
			return 0;
		fail("read from a tap");
	}
	out[1].iov_len = (size_t)bytes - sizeof(vnet) - tag_bytes;
	if (vnet.flags & 1)
		vnet.csum_start = (uint16_t)(vnet.csum_start - tag_bytes);
	if (vnet.hdr_len)
		vnet.hdr_len = (uint16_t)(vnet.hdr_len - tag_bytes);
	if (to >= 0 && writev(to, out, 2) < 0)
		fail("write to a tap");
	return 1;
}

static _Noreturn void loop(int hold, int shadow)
{
	struct pollfd fds[] = { { .fd = hold, .events = POLLIN }, { .fd = shadow, .events = POLLIN } };

	ready();
	for (;;) {
		int more = turn(hold, hold, HOLD_TAG_BYTES);

		if (shadow >= 0)
			more |= turn(shadow, -1, SHADOW_TAG_BYTES);
		if (!more && poll(fds, 2, -1) < 0)
			fail("poll");
	}
}

int main(int argc, char **argv)
{
	const char *task = argc > 1 ? argv[1] : "";

	if (strcmp(task, "flood") == 0 && argc == 8) {
		make_frame((size_t)atoi(argv[5]), (unsigned)atoi(argv[6]));
		open_tap(argv[4], 0); /* so that it is up */
		flood(open_tap(argv[2], 0), open_tap(argv[3], 0), (uint32_t)atoi(argv[7]));
	} else if (strcmp(task, "ping") == 0 && argc == 6) {
		make_frame(64, 0);
		ping(open_tap(argv[2], 0), open_tap(argv[3], 0), open_tap(argv[4], O_NONBLOCK), (uint32_t)atoi(argv[5]));
	} else if (strcmp(task, "loop") == 0 && argc == 4) {
		loop(open_tap(argv[2], O_NONBLOCK), open_tap(argv[3], O_NONBLOCK));
	} else {
		fprintf(stderr, "usage: see the source\n");
		return 2;
	}
	return 0;
}
