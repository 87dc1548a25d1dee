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
/* So are those whose reply never comes, after this time without a sign of it. */
#define OPEN_NS 10000000000ull
/* More CPUs than this never have inputs of one flow at the same time. */
#define INPUT_RACERS 16
/* Longer payloads are not remembered. */
#define HASHED_BYTES 1500

enum flow_flags {
	FLOW_ESTABLISHED = 1, /* the guest accepted the client's SYN that we saw */
	FLOW_LOST = 2,	      /* its requests cannot be followed any more */
	FLOW_ASKED = 4,	      /* a whole request waits for its reply, or for the rest of it */
	FLOW_WRITE_OPEN = 8,  /* a write waits for its reply; counted in its service */
	FLOW_VAGUE = 16,      /* replies cannot be matched with requests */
	FLOW_CLOSED = 32,     /* the guest has ended it */
	FLOW_ADRIFT = 64,     /* where one of its replies ended is not known: from then on, none is */
	FLOW_WRITTEN = 128,   /* there was a write that waited for its reply alone */
	FLOW_RESET = 256,     /* the client has ended it, or so it seems: only forgotten sooner */
	FLOW_ENDING = 512,    /* the client has said FIN */
	FLOW_OPAQUE = 1024,   /* the secondary could not translate what the guest gets: nothing leaves early */
};

struct flow {
	__u64 input_iseq; /* newest input */
	__u64 held_ns;	  /* newest output that waits for a commit */
	__u64 unlogged_ns; /* newest output that only waits for the input log */
	__u64 seen_ns;	   /* newest input */
	__u32 next_seq; /* of the client's next new byte */
	__u32 acked;	/* of the client's bytes, what the guest has acknowledged */
	__u32 out_end;	/* sequence number behind the guest's newest payload */
	__u32 flags;	/* enum flow_flags; changed by atomic operations only */
	__u32 service;	/* index in services */
	__u32 busy;	/* a CPU is following the requests */
	__u32 answering; /* bool: the guest has begun to reply, and answer_end is right */
	__u32 answer_end; /* sequence number behind the reply */
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
	__u64 open_ns;	    /* last sign of one of those writes */
	__u64 settled_ns;   /* when a write was last replied to */
	__u64 vague_ns;	    /* last sign of life of a vague flow, or of one that is not followed */
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
	__u64 writes;	       /* of the client's packets, those that may have been writes */
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
	FLOW_WRITES,
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
/* The newest that may hide a request to any service, or the reply to one. */
__u64 opaque_ns = 0;
/* And the newest such input. */
__u64 opaque_iseq = 0;
/* STOP of the newest commit and of the one before: CLOCK_MONOTONIC. */
__u64 commit_ns = 0;
__u64 earlier_commit_ns = 0;

static __always_inline void flow_set(struct flow *f, __u32 flags)
{
	__sync_fetch_and_or(&f->flags, flags);
}

/* Two inputs may be numbered in one order and come here in the other. */
static __always_inline void newest_input(__u64 *of, __u64 iseq)
{
	for (int i = 0; i < INPUT_RACERS; i++) {
		__u64 newest = *(volatile __u64 *)of;

		if (newest >= iseq || __sync_val_compare_and_swap(of, newest, iseq) == newest)
			return;
	}
}

/* What may hide an input of any flow is one of each. */
static __always_inline __u64 flow_needs(const struct flow *f)
{
	__u64 opaque = opaque_iseq;

	return f->input_iseq > opaque ? f->input_iseq : opaque;
}

static __always_inline void opaque_input(__u64 iseq, __u64 now_ns)
{
	newest_input(&opaque_iseq, iseq);
	opaque_ns = now_ns;
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

/* Not two commits and `wait_ns` ago. */
static __always_inline bool vague_since(__u64 time_ns, __u64 wait_ns, __u64 now_ns)
{
	return time_ns && (time_ns >= earlier_commit_ns || now_ns - time_ns < wait_ns);
}

/* True unless the service's state is certainly that of the newest commit. */
static __always_inline bool in_doubt(const struct service *s, __u64 now_ns)
{
	return (s->open_writes && vague_since(s->open_ns, OPEN_NS, now_ns)) || s->settled_ns >= commit_ns ||
	       vague_since(s->vague_ns, VAGUE_NS, now_ns) || vague_since(opaque_ns, VAGUE_NS, now_ns);
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
	flow_count(f->service, FLOW_WRITES);
	if (!alone) {
		flow_set(f, FLOW_VAGUE);
		s->vague_ns = now_ns;
		return;
	}
	s->open_ns = now_ns;
	if (!(__sync_fetch_and_or(&f->flags, FLOW_WRITE_OPEN | FLOW_WRITTEN) & FLOW_WRITE_OPEN))
		__sync_fetch_and_add(&s->open_writes, 1);
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
	__u64 last = (__u64)bytes - 1; /* one comparison tells both ends, to old verifiers (6.1, 6.12), too */

	barrier_var(last);
	if (!payload || last >= HASHED_BYTES)
		return 0;
	barrier_var(last);
	payload->words[(last + 1) / sizeof(__u64)] = 0;
	if (bpf_skb_load_bytes(skb, offset, payload, last + 1))
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
static __always_inline bool acknowledged(const struct flow *f, const struct packet *p)
{
	return (__s32)(p->seq + p->payload_bytes - f->acked) <= 0;
}

static __always_inline bool repeated(struct __sk_buff *skb, const struct flow *f, const struct packet *p)
{
	return p->seq == f->newest_seq && p->payload_bytes == f->newest_bytes && f->newest_hash &&
	       payload_hash(skb, p->payload_offset, p->payload_bytes) == f->newest_hash;
}

/* A client opens a connection. */
static __always_inline void flow_open(struct __sk_buff *skb, const struct packet *p, __u32 service,
				      struct service *s, __u64 iseq, __u64 now_ns)
{
	struct flow *f = bpf_map_lookup_elem(&flows, &p->key);
	struct flow fresh = {
		.input_iseq = iseq,
		.seen_ns = now_ns,
		.next_seq = p->seq + 1,
		.acked = p->seq + 1,
		.service = service,
		.flags = packet_is_signed(skb, p) ? FLOW_OPAQUE : 0,
	};

	if (f && !(f->flags & FLOW_CLOSED)) {
		newest_input(&f->input_iseq, iseq);
		flow_set(f, fresh.flags);
		/* The same SYN again is fine; another one is a trick or a
		 * restart, and which of the two the guest believes is not known. */
		if (f->next_seq != p->seq + 1 || (f->flags & FLOW_ESTABLISHED))
			flow_lose(f, s, now_ns);
		return;
	}
	if (f)
		write_settled(f, s, now_ns); /* which came after the end: nobody else will */
	if (p->payload_bytes)
		flow_lose(&fresh, s, now_ns);
	if (bpf_map_update_elem(&flows, &p->key, &fresh, BPF_ANY))
		flow_count(service, FLOW_UNTRACKED);
}

/*
 * Follows what a client sends to a declared service. True if it may be a write;
 * then a write is in doubt from now on.  The secondary relies on both: it replays
 * reads before the first such input, and what follows it in any order, because
 * nobody has seen those replies.
 */
static __always_inline bool flow_input(struct __sk_buff *skb, const struct packet *p, __u64 iseq, __u64 now_ns)
{
	__u32 service, found;
	struct service *s = service_of(p, &service);
	struct flow *f;
	bool alone;

	if (!s)
		return true; /* undeclared: no promise, no hurry */
	if (p->key.protocol == PACKET_TCP && (p->flags & (TCP_SYN | TCP_ACK)) == TCP_SYN) {
		flow_open(skb, p, service, s, iseq, now_ns);
		return p->payload_bytes != 0;
	}
	f = bpf_map_lookup_elem(&flows, &p->key);
	if (!f && p->key.protocol == PACKET_UDP) {
		struct flow fresh = { .service = service, .flags = FLOW_ESTABLISHED, .seen_ns = now_ns };

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
	newest_input(&f->input_iseq, iseq);
	f->seen_ns = now_ns;
	if (p->flags & TCP_FIN)
		flow_set(f, FLOW_ENDING);
	if (!p->payload_bytes) {
		if ((p->flags & TCP_RST) && (p->seq == f->next_seq || (f->flags & FLOW_LOST)))
			flow_set(f, FLOW_RESET);
		return false;
	}
	if (p->key.protocol == PACKET_UDP) {
		alone = !(f->flags & (FLOW_ASKED | FLOW_VAGUE)) && !f->pipelined;
		found = classify_datagram(skb, p->payload_offset, p->payload_bytes, s->classifier);
		if (found & REQUEST_WRITE)
			write_arrived(f, s, now_ns, alone);
		f->pipelined = !alone;
		flow_set(f, FLOW_ASKED);
		return found & REQUEST_WRITE;
	}
	if (!(f->flags & FLOW_LOST) && !(p->flags & TCP_URG)) {
		if (acknowledged(f, p))
			return false;
		/* An open write is in doubt already, and this will be committed with
		 * the reply to it. How long a vague one is in doubt is a guess, and one
		 * without a reply, and it may be only now that the guest gets it. */
		if (repeated(skb, f, p)) {
			if (f->flags & FLOW_WRITE_OPEN)
				s->open_ns = now_ns;
			if (!(f->flags & FLOW_VAGUE))
				return false;
			s->vague_ns = now_ns;
			return true;
		}
	}
	if ((f->flags & FLOW_LOST) || (p->flags & TCP_URG) || p->seq != f->next_seq ||
	    __sync_val_compare_and_swap(&f->busy, 0, 1) != 0) {
		flow_lose(f, s, now_ns);
		return true;
	}
	/* Nothing asked is unanswered, not even in part, and the client has all of the
	 * answers, with or without the guest's FIN.  One that acknowledges more is translated for since
	 * a takeover, or lies: how much it has is not known. */
	alone = !(f->flags & (FLOW_ASKED | FLOW_VAGUE | FLOW_ADRIFT)) && p->ack - f->out_end <= 1 && !f->pipelined;
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

/*
 * The guest has said what nobody asked for, or a reply whose end is not known.
 * Whether a write that waits for its reply has had it, only the end of the flow
 * will tell.
 */
static __always_inline void flow_adrift(struct flow *f, struct service *s, bool unasked, __u64 now_ns)
{
	if ((__sync_fetch_and_or(&f->flags, FLOW_ADRIFT) & FLOW_WRITTEN) && unasked) {
		flow_set(f, FLOW_VAGUE);
		s->vague_ns = now_ns;
	}
}

/*
 * Follows replies, byte by byte: only the whole reply to a request tells that it
 * was carried out.  What PSH ends may be a piece of one, and what was said before
 * is said again when it was lost or held.  True if a reply ends here.
 */
static __always_inline bool flow_answer(struct __sk_buff *skb, struct flow *f, struct service *s,
					const struct packet *p, __u64 now_ns)
{
	__u32 end = p->seq + p->payload_bytes, said = f->out_end, fresh = end - said, length;

	if (!p->payload_bytes)
		return false;
	if (p->key.protocol == PACKET_UDP) {
		/* What nobody asked for, somebody did in a way that could not be read. */
		if (!(f->flags & FLOW_ASKED) && !f->pipelined && s->classifier != SERVICE_READ_ONLY)
			s->vague_ns = now_ns;
		return true; /* a datagram is all of what is said */
	}
	if ((__s32)fresh <= 0)
		return false;
	f->out_end = end;
	/* No write of such a flow waits for a reply of its own, or ever will. */
	if ((f->flags & (FLOW_ADRIFT | FLOW_VAGUE)) || (f->pipelined && !(f->flags & FLOW_WRITE_OPEN)))
		return false;
	if (!(f->flags & FLOW_ASKED) || fresh > p->payload_bytes) {
		flow_adrift(f, s, true, now_ns);
		return false;
	}
	if (!f->answering) {
		length = answer_bytes(skb, p->payload_offset + p->payload_bytes - fresh, fresh, s->classifier);
		/* An answer to what has not arrived is none. */
		if (!length || (__s32)(p->ack - f->next_seq) < 0) {
			flow_adrift(f, s, false, now_ns);
			return false;
		}
		f->answer_end = said + length;
		f->answering = 1;
	}
	if ((__s32)(end - f->answer_end) < 0)
		return false;
	f->answering = 0;
	if (end != f->answer_end)
		flow_adrift(f, s, true, now_ns);
	return true;
}

/* What the guest acknowledges it has. If it is more than we could read, the rest
 * came in fragments or the like, and only now does it do anything. */
static __always_inline void flow_acknowledged(struct flow *f, struct service *s, __u32 ack, __u64 now_ns)
{
	if (!(f->flags & FLOW_LOST) && (__s32)(ack - f->next_seq) > !!(f->flags & FLOW_ENDING)) {
		flow_set(f, FLOW_OPAQUE);
		flow_lose(f, s, now_ns);
	}
	if ((__s32)(ack - f->acked) <= 0)
		return;
	f->acked = ack;
	if (f->flags & FLOW_WRITE_OPEN)
		s->open_ns = now_ns; /* it may be only now that the guest has it */
}

/* What the guest has said is judged: if a reply or the flow ends with it, that
 * settles a write. */
static __always_inline void flow_answered(struct flow *f, struct service *s, const struct packet *p, bool whole, __u64 now_ns)
{
	if (p->flags & (TCP_FIN | TCP_RST)) {
		flow_set(f, FLOW_CLOSED);
		write_settled(f, s, now_ns);
	}
	if (f->flags & FLOW_VAGUE)
		s->vague_ns = now_ns;
	if (whole) {
		__sync_fetch_and_and(&f->flags, ~FLOW_ASKED);
		write_settled(f, s, now_ns);
	} else if (p->payload_bytes && (f->flags & FLOW_WRITE_OPEN)) {
		s->open_ns = now_ns; /* most likely of its reply */
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
	if (f->flags & FLOW_OPAQUE)
		return FLOW_HELD_STANDING;
	if (!control) {
		if (!s->prerelease || (p->flags & (TCP_FIN | TCP_RST | TCP_SYN)))
			return FLOW_HELD_OFF;
		if (!(f->flags & FLOW_ESTABLISHED) || (f->flags & (FLOW_LOST | FLOW_VAGUE)))
			return FLOW_HELD_STANDING;
		/* Others do not wait for a write for ever. What its own flow says may be the
		 * reply to it, and a whole reply ends that: of a write without one, that to
		 * the next request. */
		if ((f->flags & FLOW_WRITE_OPEN) || in_doubt(s, now_ns))
			return FLOW_HELD_DOUBT;
	}
	if (flow_needs(f) > logged_iseq ||
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
	__u32 service;
	bool whole;

	switch (packet_parse(skb, true, &p)) {
	case PACKET_PLAIN:
		break;
	case PACKET_OPAQUE:
		opaque_ns = now_ns;
		return false;
	default:
		return false;
	}
	f = bpf_map_lookup_elem(&flows, &p.key);
	s = f ? bpf_map_lookup_elem(&services, &f->service) : service_of(&p, &service);
	if (!s)
		return false;
	if (!f) {
		/* Older than the gate, or the table was full: it may be the reply to a
		 * write, which may have been done only now. */
		s->vague_ns = now_ns;
		return false;
	}
	if ((p.flags & (TCP_SYN | TCP_ACK)) == (TCP_SYN | TCP_ACK) && p.ack == f->next_seq && !(f->flags & FLOW_ESTABLISHED)) {
		f->out_end = p.seq + 1;
		flow_set(f, FLOW_ESTABLISHED);
	}
	if ((f->flags & FLOW_ESTABLISHED) && (p.flags & TCP_ACK))
		flow_acknowledged(f, s, p.ack, now_ns);
	whole = flow_answer(skb, f, s, &p, now_ns);
	if (!protected_now) {
		flow_answered(f, s, &p, whole, now_ns);
		return false;
	}
	/* Judged before this very answer settles anything. */
	verdict = flow_judge(f, s, &p, now_ns);
	flow_answered(f, s, &p, whole, now_ns);
	flow_count(f->service, verdict);
	switch (verdict) {
	case FLOW_PRERELEASED:
	case FLOW_CONTROL:
		return true;
	case FLOW_HELD_UNLOGGED:
		f->unlogged_ns = now_ns;
		*needs_iseq = flow_needs(f);
		if (*needs_iseq > needed_iseq)
			needed_iseq = *needs_iseq;
		return false;
	default:
		f->held_ns = now_ns;
		return false;
	}
}

/* ---- forgetting ---- */

/* Flows without input since then are forgotten by the next gate_sweep: those that
 * have ended; those that never began, and conversations by datagrams; and any. */
__u64 sweep_ended_ns = 0;
__u64 sweep_quiet_ns = 0;
__u64 sweep_idle_ns = 0;

static long sweep_flow(void *map, const struct flow_key *key, struct flow *f, void *now_ns)
{
	__u64 seen_ns = f->seen_ns, before_ns = sweep_idle_ns;
	struct service *s;

	if (f->flags & (FLOW_CLOSED | FLOW_RESET))
		before_ns = sweep_ended_ns;
	else if (!(f->flags & FLOW_ESTABLISHED) || key->protocol == PACKET_UDP)
		before_ns = sweep_quiet_ns;
	if (seen_ns >= before_ns)
		return 0;
	s = bpf_map_lookup_elem(&services, &f->service);
	if (s) {
		/* Nobody else will. */
		write_settled(f, s, *(__u64 *)now_ns);
		if ((f->flags & (FLOW_VAGUE | FLOW_CLOSED)) == FLOW_VAGUE)
			s->vague_ns = *(__u64 *)now_ns;
	}
	bpf_map_delete_elem(map, key);
	return 0;
}

static __always_inline void flow_sweep(void)
{
	__u64 now_ns = bpf_ktime_get_ns();

	bpf_for_each_map_elem(&flows, sweep_flow, &now_ns, 0);
}

#endif
