/* SPDX-License-Identifier: MIT OR GPL-2.0 */
/*
 * Flows and services: which replies come from synchronised state.
 *
 * A reply may leave at once only if the secondary would give the same one.  For
 * a declared service that holds as long as its state is the one of the last
 * commit, that is, while no write is in doubt.  A write is in doubt from its
 * arrival until a checkpoint has committed that stopped after the reply to it.
 *
 * Every shortcut here errs towards holding.  Clients are hostile: bytes that the
 * guest might read differently than we did (a retransmission with other bytes, a
 * second SYN, an urgent pointer) cost the flow its standing for good.
 */
#ifndef COLOPP_FLOW_H
#define COLOPP_FLOW_H

#include "packet.h"
#include "services/classify.h"

#define MAX_SERVICES 64
#define MAX_FLOWS 65536
/* After the last sign of life of a flow whose replies cannot be told apart,
 * its writes are thought done only after two commits and this time. */
#define VAGUE_NS 1000000000ull
/* Longer payloads are not remembered. */
#define HASHED_BYTES 1500

enum flow_flags {
	FLOW_ESTABLISHED = 1, /* the guest accepted the client's SYN that we saw */
	FLOW_LOST = 2,	      /* its requests cannot be followed any more */
	FLOW_ASKED = 4,	      /* a whole request waits for its reply */
	FLOW_WRITE_OPEN = 8,  /* a write waits for its reply; counted in its service */
	FLOW_VAGUE = 16,      /* replies cannot be matched with requests */
	FLOW_CLOSED = 32,     /* the guest has ended it */
};

struct flow {
	__u64 input_iseq; /* newest input */
	__u64 held_ns;	  /* newest output that waits for a commit */
	__u64 unlogged_ns; /* newest output that only waits for the input log */
	__u64 seen_ns;
	__u32 next_seq; /* of the client's next new byte */
	__u32 acked;	/* of the client's bytes, what the guest has acknowledged */
	__u32 out_end;	/* sequence number behind the guest's newest payload */
	__u32 flags;	/* enum flow_flags; changed by atomic operations only */
	__u32 service;	/* index in services */
	__u32 busy;	/* a CPU is following the requests */
	__u32 pipelined; /* bool: several requests wait, or may wait, for answers */
	__u32 newest_seq; /* the client's newest bytes: where they began, */
	__u32 newest_bytes;
	__u64 newest_hash; /* and what they were; 0: not known */
	struct parser_state parser;
};

/* One declared service.  Its first two members are the control plane's. */
struct service {
	enum service_protocol classifier;
	__u32 prerelease; /* bool; may change at any time */
	__u64 open_writes;  /* flows with FLOW_WRITE_OPEN */
	__u64 settled_ns;   /* when a write was last replied to */
	__u64 vague_ns;	    /* last sign of life of a vague flow */
};

struct service_port {
	__u16 port; /* big endian */
	__u16 protocol;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	/* So that one member can be written while the kernel changes others. */
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, MAX_SERVICES);
	__type(key, __u32);
	__type(value, struct service);
} services SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_SERVICES);
	__type(key, struct service_port);
	__type(value, __u32);
} service_ports SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_FLOWS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct flow_key);
	__type(value, struct flow);
} flows SEC(".maps");

/* Why packets of a declared service left at once, or did not. */
struct service_counts {
	__u64 prereleased;     /* from synchronised state */
	__u64 control;	       /* no payload, and its inputs are logged */
	__u64 held_order;      /* behind a packet of its flow that waits for a commit */
	__u64 held_unlogged;   /* until its inputs are logged, or behind such a packet */
	__u64 held_doubt;      /* a write is in doubt */
	__u64 held_standing;   /* its requests cannot be followed */
	__u64 held_off;	       /* pre-release is switched off, or it opens or ends the flow */
	__u64 untracked_flows; /* connections that found the flow table full */
};

/* Index of a member of struct service_counts. */
enum flow_counter {
	FLOW_PRERELEASED = 0,
	FLOW_CONTROL,
	FLOW_HELD_ORDER,
	FLOW_HELD_UNLOGGED,
	FLOW_HELD_DOUBT,
	FLOW_HELD_STANDING,
	FLOW_HELD_OFF,
	FLOW_UNTRACKED,
	FLOW_COUNTERS,
};

_Static_assert(sizeof(struct service_counts) == FLOW_COUNTERS * sizeof(__u64), "one index for each member");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, MAX_SERVICES);
	__type(key, __u32);
	__type(value, struct service_counts);
} service_counters SEC(".maps");

/* Set once, before load, to a random number. */
const volatile __u64 hash_secret;

/* Newest input that the secondary has in its log, contiguously. */
__u64 logged_iseq = 0;
/* The highest input that a held packet waits for. */
__u64 needed_iseq = 0;
/* The hold thread has given back everything that was sent up to this time; and
 * up to this one everything that only waited for the input log. */
__u64 drained_ns = 0;
__u64 unlogged_drained_ns = 0;
/* Newest input that may hide a request to any service. */
__u64 opaque_ns = 0;
/* STOP of the newest commit and of the one before: CLOCK_MONOTONIC. */
__u64 commit_ns = 0;
__u64 earlier_commit_ns = 0;

static __always_inline void flow_set(struct flow *f, __u32 flags)
{
	__sync_fetch_and_or(&f->flags, flags);
}

static __always_inline struct service *service_of(const struct packet *p, __u32 *index)
{
	struct service_port port = { .port = p->key.guest_port, .protocol = p->key.protocol };
	__u32 *found = bpf_map_lookup_elem(&service_ports, &port);

	if (!found)
		return NULL;
	*index = *found;
	return bpf_map_lookup_elem(&services, found);
}

static __always_inline void flow_count(__u32 service, enum flow_counter which)
{
	struct service_counts *c = bpf_map_lookup_elem(&service_counters, &service);

	if (c)
		((__u64 *)c)[which]++;
}

static __always_inline bool vague_since(__u64 time_ns, __u64 now_ns)
{
	return time_ns && (time_ns >= earlier_commit_ns || now_ns - time_ns < VAGUE_NS);
}

/* True unless the service's state is certainly that of the newest commit. */
static __always_inline bool in_doubt(const struct service *s, __u64 now_ns)
{
	return s->open_writes || s->settled_ns >= commit_ns ||
	       vague_since(s->vague_ns, now_ns) || vague_since(opaque_ns, now_ns);
}

/* The bytes of a flow can be read in more than one way: from here on they all
 * count as writes whose end nobody sees. */
static __always_inline void flow_lose(struct flow *f, struct service *s, __u64 now_ns)
{
	flow_set(f, FLOW_LOST | FLOW_VAGUE);
	s->vague_ns = now_ns;
}

static __always_inline void write_arrived(struct flow *f, struct service *s, __u64 now_ns, bool alone)
{
	if (!alone) {
		flow_set(f, FLOW_VAGUE);
		s->vague_ns = now_ns;
	} else if (!(__sync_fetch_and_or(&f->flags, FLOW_WRITE_OPEN) & FLOW_WRITE_OPEN)) {
		__sync_fetch_and_add(&s->open_writes, 1);
	}
}

static __always_inline void write_settled(struct flow *f, struct service *s, __u64 now_ns)
{
	if (!(__sync_fetch_and_and(&f->flags, ~FLOW_WRITE_OPEN) & FLOW_WRITE_OPEN))
		return;
	/* First this: there must be no moment without doubt in between. */
	s->settled_ns = now_ns;
	__sync_fetch_and_add(&s->open_writes, -1);
}

struct payload {
	__u64 words[HASHED_BYTES / sizeof(__u64) + 2]; /* the verifier does not see that it is less */
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct payload);
} payloads SEC(".maps");

/*
 * With a secret: clients cannot make two payloads that have the same.  0: too
 * long.  Not static, so that the verifier looks at the loop only once.
 */
__noinline __u64 payload_hash(struct __sk_buff *skb, __u32 offset, __u32 bytes)
{
	__u32 zero = 0;
	struct payload *payload = bpf_map_lookup_elem(&payloads, &zero);
	__u64 hash = hash_secret;

	if (!payload || bytes == 0 || bytes > HASHED_BYTES)
		return 0;
	payload->words[bytes / sizeof(__u64)] = 0;
	if (bpf_skb_load_bytes(skb, offset, payload, bytes))
		return 0;
	for (__u32 i = 0; i < sizeof(*payload) / sizeof(__u64); i++) {
		if (i * sizeof(__u64) >= bytes)
			break;
		hash = (hash ^ payload->words[i]) * (hash_secret | 1);
		hash ^= hash >> 32;
	}
	return hash;
}

/*
 * A client repeats what it has said, because it had to wait for a commit or the
 * guest was slow.  What the guest has acknowledged it never looks at again, and
 * the same bytes are the same.
 */
static __always_inline bool repeated(struct __sk_buff *skb, const struct flow *f, const struct packet *p)
{
	if (p->flags & TCP_URG)
		return false;
	if ((__s32)(p->seq + p->payload_bytes - f->acked) <= 0)
		return true;
	return p->seq == f->newest_seq && p->payload_bytes == f->newest_bytes && f->newest_hash &&
	       payload_hash(skb, p->payload_offset, p->payload_bytes) == f->newest_hash;
}

/* A client opens a connection. */
static __always_inline void flow_open(const struct packet *p, __u32 service, struct service *s,
				      __u64 iseq, __u64 now_ns)
{
	struct flow *f = bpf_map_lookup_elem(&flows, &p->key);
	struct flow fresh = {
		.input_iseq = iseq,
		.seen_ns = now_ns,
		.next_seq = p->seq + 1,
		.acked = p->seq + 1,
		.service = service,
		.flags = p->payload_bytes ? FLOW_LOST | FLOW_VAGUE : 0,
	};

	if (f && !(f->flags & FLOW_CLOSED)) {
		f->input_iseq = iseq;
		/* The same SYN again is fine; another one is a trick or a
		 * restart, and which of the two the guest believes is not known. */
		if (f->next_seq != p->seq + 1 || (f->flags & FLOW_ESTABLISHED))
			flow_lose(f, s, now_ns);
		return;
	}
	if (bpf_map_update_elem(&flows, &p->key, &fresh, BPF_ANY))
		flow_count(service, FLOW_UNTRACKED);
}

/* Follows what a client sends to a declared service. True if it may be a write. */
static __always_inline bool flow_input(struct __sk_buff *skb, const struct packet *p, __u64 iseq, __u64 now_ns)
{
	__u32 service, found;
	struct service *s = service_of(p, &service);
	struct flow *f;
	bool alone;

	if (!s)
		return true; /* undeclared: no promise, no hurry */
	if (p->key.protocol == PACKET_TCP && (p->flags & (TCP_SYN | TCP_ACK)) == TCP_SYN) {
		flow_open(p, service, s, iseq, now_ns);
		return p->payload_bytes != 0;
	}
	f = bpf_map_lookup_elem(&flows, &p->key);
	if (!f && p->key.protocol == PACKET_UDP) {
		struct flow fresh = { .service = service, .flags = FLOW_ESTABLISHED };

		bpf_map_update_elem(&flows, &p->key, &fresh, BPF_NOEXIST);
		f = bpf_map_lookup_elem(&flows, &p->key);
		if (!f)
			flow_count(service, FLOW_UNTRACKED);
	}
	if (!f) {
		if (!p->payload_bytes)
			return false;
		/* Older than the gate, or the table is full. */
		s->vague_ns = now_ns;
		return true;
	}
	f->input_iseq = iseq;
	f->seen_ns = now_ns;
	if (!p->payload_bytes)
		return false;
	if (p->key.protocol == PACKET_UDP) {
		alone = !(f->flags & (FLOW_ASKED | FLOW_VAGUE)) && !f->pipelined;
		found = classify_datagram(skb, p->payload_offset, p->payload_bytes, s->classifier);
		if (found & REQUEST_WRITE)
			write_arrived(f, s, now_ns, alone);
		f->pipelined = !alone;
		flow_set(f, FLOW_ASKED);
		return found & REQUEST_WRITE;
	}
	if (repeated(skb, f, p))
		return true;
	if ((f->flags & FLOW_LOST) || (p->flags & TCP_URG) || p->seq != f->next_seq ||
	    __sync_val_compare_and_swap(&f->busy, 0, 1) != 0) {
		flow_lose(f, s, now_ns);
		return true;
	}
	/* Nothing asked is unanswered, and the client has all of the answers, with or
	 * without the guest's FIN.  One that acknowledges more is translated for since
	 * a takeover, or lies: how much it has is not known. */
	alone = !(f->flags & (FLOW_ASKED | FLOW_VAGUE)) && p->ack - f->out_end <= 1 && !f->pipelined;
	found = classify_stream(skb, p->payload_offset, p->payload_bytes, s->classifier, &f->parser);
	f->newest_hash = payload_hash(skb, p->payload_offset, p->payload_bytes);
	f->newest_seq = p->seq;
	f->newest_bytes = p->payload_bytes;
	f->next_seq += p->payload_bytes;
	f->busy = 0;
	if (found & REQUEST_LOST)
		flow_lose(f, s, now_ns);
	else if (found & REQUEST_WRITE)
		write_arrived(f, s, now_ns, alone && !(found & REQUEST_READ) && f->parser.ended <= 1);
	if (f->parser.ended)
		flow_set(f, FLOW_ASKED);
	/* Of several answers one cannot be told from another: the writes of a
	 * client that does not wait for answers are never `alone` again. */
	f->pipelined = !alone || f->parser.ended > 1;
	return found & REQUEST_WRITE;
}

/* The guest answers, or ends the flow. */
static __always_inline void flow_answered(struct flow *f, struct service *s, const struct packet *p, __u64 now_ns)
{
	__u32 end = p->seq + p->payload_bytes;

	if (p->flags & (TCP_FIN | TCP_RST)) {
		flow_set(f, FLOW_CLOSED);
		write_settled(f, s, now_ns);
	}
	if (f->flags & FLOW_VAGUE)
		s->vague_ns = now_ns;
	if (!p->payload_bytes)
		return;
	if ((__s32)(end - f->out_end) > 0)
		f->out_end = end;
	/* The last packet of what an application sends at once carries PSH. */
	if (!(p->flags & TCP_PSH))
		return;
	if (__sync_fetch_and_and(&f->flags, ~FLOW_ASKED) & FLOW_ASKED) {
		write_settled(f, s, now_ns);
	} else if (f->flags & FLOW_WRITE_OPEN) {
		/* An answer before the question was complete. */
		flow_set(f, FLOW_VAGUE);
		s->vague_ns = now_ns;
		write_settled(f, s, now_ns);
	}
}

/*
 * Whether what a declared service says may leave at once: a counter says why
 * (not).  The input log comes last: what waits for nothing else need not wait for
 * a commit, as whatever was in doubt when the guest sent it is judged here.
 */
static __always_inline enum flow_counter flow_judge(const struct flow *f, const struct service *s,
						    const struct packet *p, __u64 now_ns)
{
	bool control = !p->payload_bytes && !(p->flags & (TCP_FIN | TCP_RST));

	if (f->held_ns > drained_ns)
		return FLOW_HELD_ORDER;
	if (!control) {
		if (!s->prerelease || (p->flags & (TCP_FIN | TCP_RST | TCP_SYN)))
			return FLOW_HELD_OFF;
		if (!(f->flags & FLOW_ESTABLISHED) || (f->flags & (FLOW_LOST | FLOW_VAGUE)))
			return FLOW_HELD_STANDING;
		if (in_doubt(s, now_ns))
			return FLOW_HELD_DOUBT;
	}
	if (f->input_iseq > logged_iseq ||
	    (f->unlogged_ns > drained_ns && f->unlogged_ns > unlogged_drained_ns))
		return FLOW_HELD_UNLOGGED;
	return control ? FLOW_CONTROL : FLOW_PRERELEASED;
}

/*
 * Follows what the guest sends.  True if it may leave at once although the VM is
 * protected; else *needs_iseq is the input that it waits for, unless it must wait
 * for a commit.
 */
static __always_inline bool flow_output(struct __sk_buff *skb, bool protected_now, __u64 now_ns, __u64 *needs_iseq)
{
	enum flow_counter verdict;
	struct service *s;
	struct packet p;
	struct flow *f;

	if (packet_parse(skb, true, &p) != PACKET_PLAIN)
		return false;
	f = bpf_map_lookup_elem(&flows, &p.key);
	if (!f)
		return false;
	s = bpf_map_lookup_elem(&services, &f->service);
	if (!s)
		return false;
	if ((p.flags & (TCP_SYN | TCP_ACK)) == (TCP_SYN | TCP_ACK) && p.ack == f->next_seq && !(f->flags & FLOW_ESTABLISHED)) {
		f->out_end = p.seq + 1;
		flow_set(f, FLOW_ESTABLISHED);
	}
	if ((f->flags & FLOW_ESTABLISHED) && (p.flags & TCP_ACK) && (__s32)(p.ack - f->acked) > 0)
		f->acked = p.ack;
	if (!protected_now) {
		flow_answered(f, s, &p, now_ns);
		return false;
	}
	/* Judged before this very answer settles anything. */
	verdict = flow_judge(f, s, &p, now_ns);
	flow_answered(f, s, &p, now_ns);
	flow_count(f->service, verdict);
	switch (verdict) {
	case FLOW_PRERELEASED:
	case FLOW_CONTROL:
		return true;
	case FLOW_HELD_UNLOGGED:
		f->unlogged_ns = now_ns;
		*needs_iseq = f->input_iseq;
		if (*needs_iseq > needed_iseq)
			needed_iseq = *needs_iseq;
		return false;
	default:
		f->held_ns = now_ns;
		return false;
	}
}

#endif
