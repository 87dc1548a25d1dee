/* SPDX-License-Identifier: MIT */
/*
 * Moves packets between a device and a pipe: the guest's side of a tap, which
 * is QEMU's in real life, and a raw socket on any other device.
 *
 *   tap-pump tap|packet IFNAME
 *
 * stdin:  { u32 bytes, u32 count, u32 counter_at } packet, sent `count` times;
 *         where counter_at is not 0, a big-endian counter from 0 on is written
 *         that far into the packet each time.
 * stdout: { u32 bytes } packet; the first, of 0 bytes, says that the device is open.
 *
 * A packet is a virtio_net_hdr of 10 bytes and a frame.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#ifndef TUN_F_USO4
#define TUN_F_USO4 0x20
#define TUN_F_USO6 0x40
#endif

#define PACKET_MAX (128 * 1024)

static _Noreturn void fail(const char *what)
{
	perror(what);
	exit(1);
}

static int open_tap(const char *name)
{
	unsigned offloads = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN;
	struct ifreq request = { .ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR };
	int fd = open("/dev/net/tun", O_RDWR);

	if (fd < 0)
		fail("/dev/net/tun");
	strncpy(request.ifr_name, name, IFNAMSIZ - 1);
	if (ioctl(fd, TUNSETIFF, &request) < 0)
		fail("TUNSETIFF");
	if (ioctl(fd, TUNSETOFFLOAD, offloads | TUN_F_USO4 | TUN_F_USO6) < 0 &&
	    ioctl(fd, TUNSETOFFLOAD, offloads) < 0)
		fail("TUNSETOFFLOAD");
	return fd;
}

static int open_packet_socket(const char *name)
{
	struct sockaddr_ll address = { .sll_family = AF_PACKET, .sll_ifindex = (int)if_nametoindex(name) };
	int fd = socket(AF_PACKET, SOCK_RAW, 0), on = 1;

	if (fd < 0 || setsockopt(fd, SOL_PACKET, PACKET_VNET_HDR, &on, sizeof(on)) < 0 ||
	    bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0)
		fail(name);
	return fd;
}

/* False at the end of the input. */
static int read_exactly(void *to, size_t bytes)
{
	for (size_t done = 0; done < bytes;) {
		ssize_t more = read(STDIN_FILENO, (char *)to + done, bytes - done);
		if (more == 0)
			return 0;
		if (more < 0 && errno != EINTR)
			fail("stdin");
		if (more > 0)
			done += (size_t)more;
	}
	return 1;
}

static void emit(const void *packet, uint32_t bytes)
{
	if (fwrite(&bytes, sizeof(bytes), 1, stdout) != 1 || (bytes && fwrite(packet, bytes, 1, stdout) != 1))
		fail("stdout");
}

static char packet[PACKET_MAX];

static int send_order(int fd)
{
	struct { uint32_t bytes, count, counter_at; } order;

	if (!read_exactly(&order, sizeof(order)))
		return 0;
	if (order.bytes > sizeof(packet) || (order.counter_at && order.counter_at + 4 > order.bytes)) {
		fprintf(stderr, "an order for %u bytes\n", order.bytes);
		exit(1);
	}
	if (!read_exactly(packet, order.bytes))
		return 0;
	for (uint32_t i = 0; i < order.count; i++) {
		uint32_t counter = htonl(i);
		if (order.counter_at)
			memcpy(packet + order.counter_at, &counter, sizeof(counter));
		if (write(fd, packet, order.bytes) != (ssize_t)order.bytes)
			fail("write to the device");
	}
	return 1;
}

int main(int argc, char **argv)
{
	static char incoming[PACKET_MAX];
	int is_tap = argc == 3 && strcmp(argv[1], "tap") == 0;
	int fd;

	if (argc != 3 || (!is_tap && strcmp(argv[1], "packet") != 0)) {
		fprintf(stderr, "usage: tap-pump tap|packet IFNAME\n");
		return 2;
	}
	fd = is_tap ? open_tap(argv[2]) : open_packet_socket(argv[2]);
	emit(NULL, 0);
	for (;;) {
		struct pollfd ready[2] = { { .fd = STDIN_FILENO, .events = POLLIN }, { .fd = fd, .events = is_tap ? POLLIN : 0 } };

		/* What was read goes out before anything is waited for. */
		if (poll(ready, 2, 0) == 0) {
			fflush(stdout);
			poll(ready, 2, -1);
		}
		if (ready[1].revents & POLLIN) {
			ssize_t bytes = read(fd, incoming, sizeof(incoming));
			if (bytes < 0)
				fail("read from the device");
			emit(incoming, (uint32_t)bytes);
		}
		if (ready[1].revents & POLLERR)
			return 0; /* the device is gone */
		if (ready[0].revents && !send_order(fd))
			return 0;
	}
}
