#include "tcx.h"

#include <bpf/bpf.h>
#include <unistd.h>

#include <cerrno>
#include <vector>

#include "args.h"
#include "error.h"
#include "kernel_abi.h"
#include "link.h"
#include "log_capture.h"
#include "program.h"

namespace libbpf_napi {

namespace {

bpf_attach_type AttachType(const Napi::Value& egress) {
  return static_cast<bpf_attach_type>(Flag(egress) ? abi::kAttachTcxEgress : abi::kAttachTcxIngress);
}

std::string Device(const Napi::Value& ifindex, const Napi::Value& egress) {
  return std::string(Flag(egress) ? "tcx egress" : "tcx ingress") + " of interface " +
         std::to_string(U32(ifindex));
}

bool KernelHasTcx() {
  // Interface 0 never exists: a kernel with tcx looks for it, one without does not know the type.
  LIBBPF_OPTS(bpf_prog_query_opts, opts);
  int error = bpf_prog_query_opts(0, static_cast<bpf_attach_type>(abi::kAttachTcxIngress), &opts);
  return error != -EINVAL;
}

constexpr char kTooOld[] = "this kernel has no tcx (Linux 6.6 or later has)";

// Where among the programs already there: flags, and the anchor as an id or a descriptor.
struct Anchor {
  uint32_t flags = 0;
  uint32_t id = 0;
};

Anchor AnchorOf(const Napi::Value& flags, const Napi::Value& id) {
  Anchor anchor{U32(flags), U32(id)};
  if (anchor.id != 0) anchor.flags |= abi::kFlagId;
  return anchor;
}

}  // namespace

// attachTcx(ifindex, egress, anchorFlags, anchorId)
Napi::Value Program::AttachTcx(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  int fd = Fd(env, "attach");
  if (fd < 0) return {};
  Anchor anchor = AnchorOf(info[2], info[3]);
  LIBBPF_OPTS(bpf_link_create_opts, opts);
  opts.flags = anchor.flags;
  opts.tcx.relative_id = anchor.id;
  int link = bpf_link_create(fd, U32(info[0]), AttachType(info[1]), &opts);
  if (link < 0) {
    return ThrowBpf(env, "attach", Subject() + " to " + Device(info[0], info[1]), link,
                    KernelHasTcx() ? "" : kTooOld);
  }
  return Link::Make(env, link);
}

// attachTcxDetached(ifindex, egress, anchorFlags, anchorId, replaceProgramId)
Napi::Value Program::AttachTcxDetached(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  int fd = Fd(env, "attach");
  if (fd < 0) return {};
  std::string subject = Subject() + " to " + Device(info[0], info[1]);
  Anchor anchor = AnchorOf(info[2], info[3]);
  LIBBPF_OPTS(bpf_prog_attach_opts, opts);
  opts.flags = anchor.flags;
  opts.relative_id = anchor.id;
  int replaced = -1;
  if (uint32_t replace_id = U32(info[4]); replace_id != 0) {
    replaced = bpf_prog_get_fd_by_id(replace_id);
    if (replaced < 0) {
      return ThrowBpf(env, "attach", subject, replaced,
                      "there is no program of id " + std::to_string(replace_id) + " to replace");
    }
    opts.flags |= abi::kFlagReplace;
    opts.replace_prog_fd = replaced;
  }
  int error = bpf_prog_attach_opts(fd, U32(info[0]), AttachType(info[1]), &opts);
  if (replaced >= 0) close(replaced);
  if (error != 0) return ThrowBpf(env, "attach", subject, error, KernelHasTcx() ? "" : kTooOld);
  return env.Undefined();
}

// Attaches a filter in direct-action mode; true, or an exception is pending.
bool Program::AttachFilter(const Napi::CallbackInfo& info, bpf_tc_hook* hook, bpf_tc_opts* filter) {
  Napi::Env env = info.Env();
  int fd = Fd(env, "attach");
  if (fd < 0) return false;
  std::string subject = Subject() + " to clsact " + (Flag(info[1]) ? "egress" : "ingress") +
                        " of interface " + std::to_string(U32(info[0]));
  hook->ifindex = U32(info[0]);
  hook->attach_point = Flag(info[1]) ? BPF_TC_EGRESS : BPF_TC_INGRESS;
  filter->prog_fd = fd;
  filter->priority = U32(info[2]);
  LogCapture capture;
  int error = bpf_tc_hook_create(hook);
  if (error == 0 || error == -EEXIST) error = bpf_tc_attach(hook, filter);
  if (error != 0) ThrowBpf(env, "attach", subject, error, capture.text());
  return error == 0;
}

// attachClsact(ifindex, egress, priority): for kernels before 6.6.
Napi::Value Program::AttachClsact(const Napi::CallbackInfo& info) {
  LIBBPF_OPTS(bpf_tc_hook, hook);
  LIBBPF_OPTS(bpf_tc_opts, filter);
  if (!AttachFilter(info, &hook, &filter)) return {};
  return Link::MakeFilter(info.Env(), hook, filter);
}

// attachClsactDetached(ifindex, egress, priority): in place of what was attached so before.
Napi::Value Program::AttachClsactDetached(const Napi::CallbackInfo& info) {
  LIBBPF_OPTS(bpf_tc_hook, hook);
  LIBBPF_OPTS(bpf_tc_opts, filter);
  filter.handle = 1;
  filter.flags = BPF_TC_F_REPLACE;
  AttachFilter(info, &hook, &filter);
  return info.Env().Undefined();
}

Napi::Value QueryTcx(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  std::vector<uint32_t> programs, links;
  LIBBPF_OPTS(bpf_prog_query_opts, opts);
  // The list may grow between asking for its length and reading it.
  for (uint32_t room = 16;; room *= 2) {
    programs.assign(room, 0);
    links.assign(room, 0);
    opts.prog_ids = programs.data();
    opts.link_ids = links.data();
    opts.count = room;
    int error = bpf_prog_query_opts(U32(info[0]), AttachType(info[1]), &opts);
    if (error == 0) break;
    if (error != -ENOSPC || room > 4096) {
      return ThrowBpf(env, "query", Device(info[0], info[1]), error, KernelHasTcx() ? "" : kTooOld);
    }
  }
  Napi::Array list = Napi::Array::New(env, opts.count);
  for (uint32_t i = 0; i < opts.count; i++) {
    Napi::Object entry = Napi::Object::New(env);
    entry.Set("progId", programs[i]);
    if (links[i] != 0) entry.Set("linkId", links[i]);
    int fd = bpf_prog_get_fd_by_id(programs[i]);
    if (fd >= 0) {
      bpf_prog_info kernel = {};
      uint32_t size = sizeof kernel;
      if (bpf_prog_get_info_by_fd(fd, &kernel, &size) == 0) entry.Set("name", kernel.name);
      close(fd);
    }
    list.Set(i, entry);
  }
  return list;
}

Napi::Value DetachTcx(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  uint32_t id = U32(info[2]);
  std::string subject = "program " + std::to_string(id) + " from " + Device(info[0], info[1]);
  int fd = bpf_prog_get_fd_by_id(id);
  if (fd < 0) return ThrowBpf(env, "detach", subject, fd, "there is no program of this id");
  int error = bpf_prog_detach_opts(fd, U32(info[0]), AttachType(info[1]), nullptr);
  close(fd);
  if (error != 0) return ThrowBpf(env, "detach", subject, error, KernelHasTcx() ? "" : kTooOld);
  return env.Undefined();
}

Napi::Value TcxSupported(const Napi::CallbackInfo& info) {
  return Napi::Boolean::New(info.Env(), KernelHasTcx());
}

}  // namespace libbpf_napi
