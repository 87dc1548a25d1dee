/* SPDX-License-Identifier: MIT OR GPL-2.0 */
/*
 * Records shared by the kernel programs, the native hold thread and TypeScript.
 *
 * This is their only definition: TypeScript gets the types from BTF, native
 * code includes this file.
 */
#ifndef COLOPP_WIRE_H
#define COLOPP_WIRE_H

#ifndef __bpf__
#include <linux/types.h>
#endif

/*
 * A held packet travels to the hold thread as an Ethernet frame of its own: a
 * header of our own in front of the guest's frame.  It begins like any Ethernet
 * header because the kernel inserts an accelerated VLAN tag twelve bytes into
 * whatever it transmits; so the tag of a guest's VLAN frame ends up in front of
 * `ethertype`, where the hold thread finds it and puts it back.
 */
#define HOLD_ETHERTYPE 0x88b5u /* IEEE 802 local experimental */
#define HOLD_MAGIC 0x636f6c70u /* "colp" */

struct hold_tag {
	__u8 dst[6];
	__u8 src[6];
	__u16 ethertype; /* big endian */
	/* 0: one packet.  Else the kernel may segment it on its way to the hold
	 * thread, with this tag in front of each segment: what the hold tap
	 * cannot take whole (64 KiB with the tag, UFO, two VLAN tags). */
	__u16 gso_size;
	__u64 time_ns; /* CLOCK_MONOTONIC when the guest sent the packet */
	__u32 magic;
	__u32 frame_bytes; /* length of the guest's frame without VLAN tag */
};

#define HOLD_TAG_BYTES 32u

/*
 * The secondary acknowledges inputs with an Ethernet frame through the tunnel:
 * this behind the header.  The epoch is a secret of the two hosts, new with each
 * protection, so that nobody else on the replication network can acknowledge.
 */
#define INPUT_ACK_ETHERTYPE 0x88b6u /* IEEE 802 local experimental */
#define INPUT_ACK_MAGIC 0x636f6c41u /* "colA" */

struct input_ack {
	__u32 magic;
	__u32 reserved;
	__u64 iseq; /* all inputs up to this one are in the secondary's memory */
	__u64 epoch;
};

/* What the gate does with a guest's packets. */
enum gate_mode {
	GATE_PASS = 0,	    /* unprotected: everything passes */
	GATE_PROTECTED = 1, /* output is held until it is released */
	GATE_CLOSED = 2,    /* nothing passes in either direction */
};

/* Every packet the gate sees is counted once, under what became of it. */
enum gate_counter {
	GATE_OUT_PASSED = 0,	 /* output while unprotected */
	GATE_OUT_NEIGHBOUR,	 /* ARP, RARP, neighbour discovery while protected */
	GATE_OUT_HELD,		 /* tagged and sent to the hold thread */
	GATE_OUT_RELEASED,	 /* came back from the hold thread */
	GATE_OUT_LEASE_EXPIRED,	 /* dropped: this host may not speak any more */
	GATE_OUT_CLOSED,	 /* dropped: closed */
	GATE_OUT_UNTAGGABLE,	 /* dropped: no room for the tag */
	GATE_OUT_EARLY,		 /* left at once while protected: see flow.h */
	GATE_IN_PASSED,
	GATE_IN_CLOSED,
	GATE_IN_UNMIRRORED,	 /* could not be mirrored; counted as passed, too */
	GATE_COUNTERS,
};

struct gate_count {
	__u64 packets;
	__u64 bytes;
};

#endif
