// Numbers of the kernel's user API that are newer than the <linux/bpf.h> a distribution may ship
// beside a newer libbpf (Debian 12: headers of 6.1, libbpf 1.4). They are ABI and never change.
#pragma once

#include <cstdint>

namespace libbpf_napi::abi {

constexpr int kProgramTypeNetfilter = 32;  // BPF_PROG_TYPE_NETFILTER, Linux 6.4
constexpr int kAttachNetfilter = 45;       // BPF_NETFILTER, Linux 6.4
constexpr int kAttachTcxIngress = 46;      // BPF_TCX_INGRESS, Linux 6.6
constexpr int kAttachTcxEgress = 47;       // BPF_TCX_EGRESS, Linux 6.6

constexpr uint32_t kFlagReplace = 1u << 2;  // BPF_F_REPLACE
constexpr uint32_t kFlagBefore = 1u << 3;   // BPF_F_BEFORE
constexpr uint32_t kFlagAfter = 1u << 4;    // BPF_F_AFTER
constexpr uint32_t kFlagId = 1u << 5;       // BPF_F_ID: the anchor is an id, not a descriptor
constexpr uint32_t kFlagLink = 1u << 13;    // BPF_F_LINK: the anchor is a link (also: struct_ops map made for a link)

// "Operation is not supported" inside the kernel; it leaks out of bpf(2) for map types that have no
// batch operations.
constexpr int kEnotsupp = 524;

enum LinkType : uint32_t {
  kLinkRawTracepoint = 1,
  kLinkTracing = 2,
  kLinkCgroup = 3,
  kLinkIter = 4,
  kLinkNetns = 5,
  kLinkXdp = 6,
  kLinkPerfEvent = 7,
  kLinkKprobeMulti = 8,
  kLinkStructOps = 9,
  kLinkNetfilter = 10,
  kLinkTcx = 11,
  kLinkUprobeMulti = 12,
  kLinkNetkit = 13,
};

// struct bpf_link_info as of Linux 6.18. The kernel fills no more than it is given room for, and an
// older kernel leaves the rest zero.
struct LinkInfo {
  uint32_t type;
  uint32_t id;
  uint32_t prog_id;
  uint32_t pad;
  union {
    struct {
      uint64_t tp_name;
      uint32_t tp_name_len;
    } raw_tracepoint;
    struct {
      uint32_t attach_type;
      uint32_t target_obj_id;
      uint32_t target_btf_id;
    } tracing;
    struct {
      uint64_t cgroup_id;
      uint32_t attach_type;
    } cgroup;
    struct {
      uint64_t target_name;
      uint32_t target_name_len;
      uint32_t map_id;
    } iter;
    struct {
      uint32_t netns_ino;
      uint32_t attach_type;
    } netns;
    struct {
      uint32_t ifindex;
    } xdp;
    struct {
      uint32_t map_id;
    } struct_ops;
    struct {
      uint32_t pf;
      uint32_t hooknum;
      int32_t priority;
      uint32_t flags;
    } netfilter;
    struct {
      uint32_t ifindex;
      uint32_t attach_type;
    } tcx;  // netkit has the same shape
    uint8_t room[112];
  };
};

}  // namespace libbpf_napi::abi
