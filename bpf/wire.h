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
#include <linux/bpf.h>
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
	__u8 src[4];
	__u16 flags;	 /* enum hold_flags */
	__u16 ethertype; /* big endian */
	/* 0: one packet.  Else the kernel may segment it on its way to the hold
	 * thread, with this tag in front of each segment: what the hold tap
	 * cannot take whole (64 KiB with the tag, UFO, two VLAN tags). */
	__u16 gso_size;
	__u64 time_ns; /* CLOCK_MONOTONIC when the guest sent the packet */
	__u32 magic;
	__u32 frame_bytes; /* length of the guest's frame without VLAN tag */
	/* 0: it waits for a commit.  Else it may also leave as soon as the
	 * secondary has this input, and all before it, in its log. */
	__u64 needs_iseq;
};

#define HOLD_TAG_BYTES 40u

enum hold_flags {
	HOLD_AUDIT = 1, /* the clone of a packet that has left early: compared, never released */
	HOLD_UNCOMPARED = 2, /* comparing its service has come to nothing: it would wait for a commit */
	HOLD_SAMPLED = 4, /* it is audited if the input log releases it */
};

/*
 * A shadow output, what the secondary's guest says in the primary's sequence
 * numbers, travels to the hold thread of the primary in the same way, through a
 * tap of its own.  `hold` as for held packets, but with a magic of its own, and
 * with the time at which it came to the primary.
 */
#define SHADOW_MAGIC 0x636f6c73u /* "cols" */

struct shadow_tag {
	struct hold_tag hold;
	/* Which checkpoint the secondary's guest had loaded when it said this:
	 * what is said from one state says nothing of another. */
	__u32 epoch;
	__u32 reserved;
};

#define SHADOW_TAG_BYTES (HOLD_TAG_BYTES + 8u)

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
	/* For an active secondary: closed for the world; what comes from the input
	 * log goes in, and what the guest says goes to the shadow programs, which
	 * are next and let none of it out. */
	GATE_SHADOWED = 3,
};

/* Every packet the gate sees is counted once, under what became of it; but one
 * that is audited twice, because its clone leaves by the way of what is released. */
enum gate_counter {
	GATE_OUT_PASSED = 0,	 /* output while unprotected */
	GATE_OUT_NEIGHBOUR,	 /* ARP, RARP, neighbour discovery while protected */
	GATE_OUT_HELD,		 /* tagged and sent to the hold thread */
	GATE_OUT_RELEASED,	 /* came back from the hold thread */
	GATE_OUT_LEASE_EXPIRED,	 /* dropped: this host may not speak any more */
	GATE_OUT_CLOSED,	 /* dropped: closed */
	GATE_OUT_UNTAGGABLE,	 /* dropped: no room for the tag */
	GATE_OUT_EARLY,		 /* left at once while protected: see flow.h */
	GATE_OUT_AUDITED,	 /* left at once, and a clone went to the hold thread */
	GATE_OUT_SHADOW,	 /* to the shadow programs */
	GATE_IN_PASSED,
	GATE_IN_CLOSED,
	GATE_SHADOW_OUTPUTS,	 /* from the secondary's guest to the hold thread; not the gate's own */
	GATE_SHADOW_DROPPED,	 /* the same, but unwanted or without room for the tag */
	GATE_IN_UNMIRRORED,	 /* could not be mirrored; counted as passed, too */
	GATE_COUNTERS,
};

struct gate_count {
	__u64 packets;
	__u64 bytes;
};

/*
 * The input mirror.  A clone of each packet that the primary's guest is about to
 * receive travels through a vxlan tunnel to the secondary's input log.  Its
 * number and size ride in the tunnel's header:
 *   VNI            the low 24 bits of the input's number (`iseq`)
 *   GBP policy id  how many packets the clone may be split into on its way, and
 *                  whether it may be a write
 */
#define MIRROR_ISEQ_BITS 24
#define MIRROR_WRITE 0x8000u
#define MIRROR_SEGMENTS 0x7fffu

/* A packet on its way to the log thread: `hold` as for held packets, but with a
 * magic of its own. */
#define LOG_MAGIC 0x636f6c6cu /* "coll" */

struct log_tag {
	struct hold_tag hold;
	__u32 iseq24;	/* the low bits of the input's number */
	__u32 flags;	/* enum log_flags */
	__u16 segments; /* packets that the whole input would be split into */
	__u16 arrived;	/* as many of them are in here */
	__u32 reserved;
};

#define LOG_TAG_BYTES 56u

enum log_flags {
	LOG_WRITE = 1, /* the input may be a write */
	LOG_LIVE = 2,  /* not from the tunnel: a client sent it here after the takeover */
};

/*
 * A shadow output goes through the same tunnel the other way, untouched but for
 * its TCP numbers: the generation of its flow in the VNI, and this policy, which
 * no mirrored input has.
 */
#define SHADOW_OUTPUT_POLICY 0x8000u

/* Which shadow outputs the secondary sends to the primary. */
enum shadow_forward {
	FORWARD_NONE = 0,
	FORWARD_DIRTY = 1, /* while a write may be in doubt */
	FORWARD_ALL = 2,
};

/* What the secondary's tap lets through. */
enum shadow_mode {
	SHADOW_STANDBY = 0, /* nothing */
	SHADOW_REPLAY = 1,  /* the log goes in; what clients send waits behind it */
	SHADOW_LIVE = 2,    /* everything, rewritten where a flow needs it */
	SHADOW_OFF = 3,	    /* everything, untouched */
	SHADOW_ACTIVE = 4,  /* the log goes in; what the guest says goes to the primary */
};

/* One TCP connection of the guest.  IPv4 addresses are mapped into IPv6. */
struct shadow_key {
	__u8 client[16];
	__u8 guest[16];
	__u16 client_port; /* big endian */
	__u16 guest_port;
	__u16 vlan; /* 0: none, else its number | 0x1000 */
	__u16 reserved;
};

enum shadow_flow_state {
	SHADOW_SILENT = 0,  /* the guest has not spoken yet */
	SHADOW_SYN = 1,	    /* a SYN has gone in */
	SHADOW_SYN_ACK = 2, /* the guest's initial sequence number is known, the client's view of it is not */
	SHADOW_KNOWN = 3,   /* seq_delta and ts_delta are right */
};

/* What is known of it since the takeover, or since an active secondary's guest
 * was set to a checkpoint.  Sequence numbers in host order. */
struct shadow_flow {
	struct bpf_spin_lock lock;
	enum shadow_flow_state state;
	__u32 seq_delta;   /* client's view of the guest's sequence numbers less the guest's own */
	__u32 ts_delta;	   /* likewise for the guest's timestamps */
	__u32 guest_isn;
	__u32 tsval_first; /* guest's own: in its newest SYN-ACK, or its first segment; if `stamped` */
	__u32 tsval_last;  /* and the newest */
	__u32 snd_max;	   /* guest's own: behind the last it has sent; valid from SHADOW_SYN_ACK on */
	__u32 rcv_ack;	   /* behind the last it has acknowledged, if `acked` */
	__u8 acked;
	__u8 stamped;
	__u8 fins; /* FIN seen, 1: of the client, 2: of the guest */
	__u8 tried; /* something to acknowledge has gone in */
	__u32 replies;	/* that the guest has ended, as far as PSH tells; repeated ones do not count */
	__u32 generation; /* it belongs to this one, and is void in any other */
	/* The part of seq_delta that the primary adds itself, since a takeover before. */
	__u32 handed_delta;
	__u64 used_ns;	/* CLOCK_MONOTONIC of the newest packet */
	__u64 ended_ns; /* of the FIN or RST that ended it, 0: not ended */
};

/* Packets by what the shadow programs did with them.  One packet may count
 * under several of the second group. */
enum shadow_counter {
	SHADOW_LOGGED = 0,    /* from the tunnel to the log */
	SHADOW_FOREIGN,	      /* dropped: not from the peer */
	SHADOW_MALFORMED,     /* dropped: without the size that goes with its number */
	SHADOW_UNTAGGABLE,    /* dropped: no room for the tag */
	SHADOW_ACKS,	      /* acknowledgements sent */
	SHADOW_INJECTED,      /* from the log to the guest */
	SHADOW_LIVE_LOGGED,   /* from a client to the log's end */
	SHADOW_IN_DROPPED,    /* standing by */
	SHADOW_OUT_DROPPED,
	SHADOW_IN_PASSED,
	SHADOW_OUT_PASSED,

	SHADOW_IN_REWRITTEN,
	SHADOW_OUT_REWRITTEN,
	SHADOW_CLAMPED,	      /* acknowledged more than the guest has sent */
	SHADOW_PROBES,	      /* went in as an old segment, only to make the guest speak */
	SHADOW_LEARNED,	      /* flows whose other initial sequence number was learned */
	SHADOW_FORWARDED,     /* from an active secondary's guest to the primary */
	SHADOW_OPAQUE,	      /* not plain TCP, or authenticated: untouched */
	SHADOW_FLOWS_FULL,    /* no room for the flow: its sequence numbers stay as they are */
	SHADOW_COUNTERS,
};

#endif
