// SPDX-License-Identifier: MIT OR GPL-2.0
/* Runs the request classifiers on frames of the tests, in pieces of any size. */
#include "vmlinux.h"
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "../../../bpf/services/classify.h"

#define ETH_HLEN 14
#define TRACE_BYTES 4096

char LICENSE[] SEC("license") = "Dual MIT/GPL";

struct feed {
	__u32 protocol;	    /* enum service_protocol */
	__u32 first_bytes;  /* of the first piece */
	__u32 piece_bytes;  /* of each later one */
	__u32 flags;	    /* out: of all pieces together; PARTIAL of the last */
	__u32 port;	    /* of feed_live */
	__u32 next_seq;     /* of feed_live: the next byte of the stream */
	__u32 longest_bytes; /* out, of feed_live: the longest payload there was */
	__u32 ended;	    /* out: requests that ended, in all pieces together */
	struct parser_state state;
	__u8 trace[TRACE_BYTES]; /* out: flags of each piece, at the index of its last byte */
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct feed);
} feeds SEC(".maps");

struct walk {
	struct __sk_buff *skb;
	struct feed *feed;
	__u32 offset, at, bytes;
};

static long feed_piece(__u32 index, struct walk *w)
{
	__u32 count = index ? w->feed->piece_bytes : w->feed->first_bytes;
	__u32 flags;

	if (count > w->bytes - w->at)
		count = w->bytes - w->at;
	flags = classify_stream(w->skb, w->offset + w->at, count, w->feed->protocol, &w->feed->state);
	w->at += count;
	w->feed->ended += w->feed->state.ended;
	if (count)
		w->feed->trace[(w->at - 1) & (TRACE_BYTES - 1)] = flags;
	w->feed->flags = (w->feed->flags & ~REQUEST_PARTIAL) | flags;
	return w->at >= w->bytes;
}

/* Payload of an IPv4 TCP frame; its offset, or 0. */
static __always_inline __u32 tcp_payload(struct __sk_buff *skb, __u32 *bytes)
{
	struct iphdr ip;
	struct tcphdr tcp;
	__u32 headers, total;

	if (bpf_skb_load_bytes(skb, ETH_HLEN, &ip, sizeof(ip)) || ip.protocol != 6)
		return 0;
	if (bpf_skb_load_bytes(skb, ETH_HLEN + ip.ihl * 4, &tcp, sizeof(tcp)))
		return 0;
	headers = ip.ihl * 4 + tcp.doff * 4;
	/* A packet too long for the field has zero in it. */
	total = ip.tot_len ? bpf_ntohs(ip.tot_len) : skb->len - ETH_HLEN;
	*bytes = total > headers ? total - headers : 0;
	return ETH_HLEN + headers;
}

/* Pieces of one frame, as if each had come by itself. */
SEC("tcx/egress")
int feed_pieces(struct __sk_buff *skb)
{
	__u32 zero = 0;
	struct walk w = { .skb = skb, .feed = bpf_map_lookup_elem(&feeds, &zero) };

	if (!w.feed)
		return -1;
	w.offset = tcp_payload(skb, &w.bytes);
	if (!w.offset)
		return -1;
	bpf_loop(TRACE_BYTES, feed_piece, &w, 0);
	return 0;
}

/* A whole frame, as a gate would do it. */
SEC("tcx/egress")
int feed_frame(struct __sk_buff *skb)
{
	__u32 zero = 0, bytes, offset;
	struct feed *feed = bpf_map_lookup_elem(&feeds, &zero);

	if (!feed)
		return -1;
	offset = tcp_payload(skb, &bytes);
	if (!offset)
		return -1;
	return classify_stream(skb, offset, bytes, feed->protocol, &feed->state);
}

/* What a real connection sends to a port, in order and once, in packets as long as the kernel makes them. */
SEC("tcx/egress")
int feed_live(struct __sk_buff *skb)
{
	__u32 zero = 0, bytes, offset, flags;
	struct feed *feed = bpf_map_lookup_elem(&feeds, &zero);
	struct tcphdr tcp;
	struct iphdr ip;

	if (!feed || skb->protocol != bpf_htons(0x0800))
		return -1;
	offset = tcp_payload(skb, &bytes);
	if (!offset || bpf_skb_load_bytes(skb, ETH_HLEN, &ip, sizeof(ip)) ||
	    bpf_skb_load_bytes(skb, ETH_HLEN + ip.ihl * 4, &tcp, sizeof(tcp)) ||
	    tcp.dest != bpf_htons(feed->port))
		return -1;
	if (tcp.syn)
		feed->next_seq = bpf_ntohl(tcp.seq) + 1;
	if (bytes == 0 || bpf_ntohl(tcp.seq) != feed->next_seq)
		return -1;
	feed->next_seq += bytes;
	if (bytes > feed->longest_bytes)
		feed->longest_bytes = bytes;
	flags = classify_stream(skb, offset, bytes, feed->protocol, &feed->state);
	feed->flags = (feed->flags & ~REQUEST_PARTIAL) | flags;
	return -1;
}

/* A whole IPv4 UDP frame. */
SEC("tcx/egress")
int feed_datagram(struct __sk_buff *skb)
{
	__u32 zero = 0, offset;
	struct feed *feed = bpf_map_lookup_elem(&feeds, &zero);
	struct iphdr ip;
	struct udphdr udp;

	if (!feed || bpf_skb_load_bytes(skb, ETH_HLEN, &ip, sizeof(ip)) || ip.protocol != 17)
		return -1;
	offset = ETH_HLEN + ip.ihl * 4;
	if (bpf_skb_load_bytes(skb, offset, &udp, sizeof(udp)))
		return -1;
	return classify_datagram(skb, offset + sizeof(udp), bpf_ntohs(udp.len) - sizeof(udp), feed->protocol);
}

/* Everything feed_frame does, except classifying. */
SEC("tcx/egress")
int feed_nothing(struct __sk_buff *skb)
{
	__u32 zero = 0, bytes, offset;
	struct feed *feed = bpf_map_lookup_elem(&feeds, &zero);

	if (!feed)
		return -1;
	offset = tcp_payload(skb, &bytes);
	if (!offset)
		return -1;
	return bytes;
}
