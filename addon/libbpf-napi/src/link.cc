#include "link.h"

#include <bpf/bpf.h>
#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "args.h"
#include "error.h"
#include "fd_kind.h"
#include "kernel_abi.h"
#include "log_capture.h"
#include "map.h"
#include "program.h"

namespace libbpf_napi {

Napi::Function Link::Define(Napi::Env env) {
  return DefineClass(env, "NativeLink",
                     {
                         InstanceMethod<&Link::Close>("close"),
                         InstanceMethod<&Link::Closed>("closed"),
                         InstanceMethod<&Link::Detach>("detach"),
                         InstanceMethod<&Link::FdOf>("fd"),
                         InstanceMethod<&Link::Info>("info"),
                         InstanceMethod<&Link::Update>("update"),
                         InstanceMethod<&Link::UpdateMap>("updateMap"),
                         InstanceMethod<&Link::Pin>("pin"),
                         InstanceMethod<&Link::ReadIterator>("readIterator"),
                     });
}

// Lets go of the attachment; 0 or a negative errno.
int Link::Target::Release() {
  int error = 0;
  if (link != nullptr) error = bpf_link__destroy(std::exchange(link, nullptr));
  if (fd >= 0) close(std::exchange(fd, -1));
  if (is_filter) {
    is_filter = false;
    LIBBPF_OPTS(bpf_tc_opts, opts);
    opts.handle = handle;
    opts.priority = priority;
    LogCapture quiet;
    error = bpf_tc_detach(&hook, &opts);
    // The device or its clsact hook is gone, and the filter with it.
    if (error == -ENOENT || error == -ENODEV || error == -EINVAL) error = 0;
  }
  if (state) std::exchange(state, nullptr)->DropDependent();
  return error;
}

Link::Link(const Napi::CallbackInfo& info) : ObjectWrap(info) {
  info.This().As<Napi::Object>().TypeTag(&kTag);
  auto* target = info[0].As<Napi::External<Target>>().Data();
  target_ = std::exchange(*target, Target{});
}

Link::~Link() { target_.Release(); }

Napi::Value Link::MakeFrom(Napi::Env env, Target target) {
  if (target.state) target.state->AddDependent();
  Napi::Value handle = EnvData::Of(env).link_class.New({Napi::External<Target>::New(env, &target)});
  target.Release();  // nothing left to release unless the constructor never ran
  return handle;
}

Napi::Value Link::Make(Napi::Env env, bpf_link* link, std::shared_ptr<ObjectState> state) {
  Target target;
  target.link = link;
  target.in_kernel = FdIs(bpf_link__fd(link), "link");
  target.state = std::move(state);
  return MakeFrom(env, std::move(target));
}

Napi::Value Link::Make(Napi::Env env, int fd) {
  Target target;
  target.fd = fd;
  return MakeFrom(env, std::move(target));
}

Napi::Value Link::MakeFilter(Napi::Env env, const bpf_tc_hook& hook, const bpf_tc_opts& filter) {
  Target target;
  target.is_filter = true;
  target.hook = hook;
  target.handle = filter.handle;
  target.priority = filter.priority;
  return MakeFrom(env, std::move(target));
}

Napi::Value Link::FromPinned(const Napi::CallbackInfo& info) {
  std::string path = TextOf(info[0]);
  int fd = bpf_obj_get(path.c_str());
  std::string subject = Quoted("pinned link", path.c_str());
  if (fd < 0) return ThrowBpf(info.Env(), "open", subject, fd);
  if (!FdIs(fd, "link")) {
    close(fd);
    return ThrowBpf(info.Env(), "open", subject, EINVAL, "this is not a BPF link");
  }
  return Make(info.Env(), fd);
}

Napi::Value Link::FromId(const Napi::CallbackInfo& info) {
  uint32_t id = U32(info[0]);
  int fd = bpf_link_get_fd_by_id(id);
  if (fd < 0) return ThrowBpf(info.Env(), "open", "the link of id " + std::to_string(id), fd);
  return Make(info.Env(), fd);
}

int Link::Fd(Napi::Env env, const char* operation) const {
  if (!target_.open()) {
    ThrowClosed(env, operation, "link");
    return -1;
  }
  if (target_.is_filter || !target_.in_kernel) {
    ThrowBpf(env, operation, "link", EOPNOTSUPP,
             target_.is_filter ? "a clsact filter has no kernel link"
                               : "this kernel attaches such programs without a link");
    return -1;
  }
  return target_.link != nullptr ? bpf_link__fd(target_.link) : target_.fd;
}

Napi::Value Link::Close(const Napi::CallbackInfo& info) {
  if (!target_.open()) return info.Env().Undefined();
  int error = target_.Release();
  if (error != 0) return ThrowBpf(info.Env(), "close", "link", error);
  return info.Env().Undefined();
}

Napi::Value Link::Closed(const Napi::CallbackInfo& info) {
  return Napi::Boolean::New(info.Env(), !target_.open());
}

// Ends the attachment even where a pin or another process holds the link, if the kernel can do so
// for this kind (tcx, xdp, cgroup, netns, netkit, struct_ops); then lets go of the handle.
Napi::Value Link::Detach(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  if (!target_.open()) return ThrowClosed(env, "detach", "link");
  if (!target_.is_filter && target_.in_kernel) {
    int fd = target_.link != nullptr ? bpf_link__fd(target_.link) : target_.fd;
    int error = bpf_link_detach(fd);
    // Kinds that cannot be forced end with their last holder: with us, if nobody pinned them.
    if (error != 0 && error != -EOPNOTSUPP && error != -EINVAL) {
      return ThrowBpf(env, "detach", "link", error);
    }
  }
  int error = target_.Release();
  if (error != 0) return ThrowBpf(env, "detach", "link", error);
  return env.Undefined();
}

Napi::Value Link::FdOf(const Napi::CallbackInfo& info) {
  int fd = Fd(info.Env(), "get the descriptor of");
  if (fd < 0) return {};
  return Napi::Number::New(info.Env(), fd);
}

namespace {

Napi::Value AttachTypeName(Napi::Env env, uint32_t type) {
  const char* name = libbpf_bpf_attach_type_str(static_cast<bpf_attach_type>(type));
  return Napi::String::New(env, name != nullptr ? name : "attach type " + std::to_string(type));
}

Napi::Value LinkTypeName(Napi::Env env, uint32_t type) {
  const char* name = libbpf_bpf_link_type_str(static_cast<bpf_link_type>(type));
  return Napi::String::New(env, name != nullptr ? name : "type " + std::to_string(type));
}

void DescribeTarget(Napi::Env env, const abi::LinkInfo& kernel, const char* name, Napi::Object out) {
  switch (kernel.type) {
    case abi::kLinkRawTracepoint:
      out.Set("tracepoint", name);
      break;
    case abi::kLinkTracing:
      out.Set("attachType", AttachTypeName(env, kernel.tracing.attach_type));
      out.Set("targetObjectId", kernel.tracing.target_obj_id);
      out.Set("targetBtfId", kernel.tracing.target_btf_id);
      break;
    case abi::kLinkCgroup:
      out.Set("attachType", AttachTypeName(env, kernel.cgroup.attach_type));
      out.Set("cgroupId", Napi::BigInt::New(env, kernel.cgroup.cgroup_id));
      break;
    case abi::kLinkIter:
      out.Set("target", name);
      break;
    case abi::kLinkNetns:
      out.Set("attachType", AttachTypeName(env, kernel.netns.attach_type));
      out.Set("netnsInode", kernel.netns.netns_ino);
      break;
    case abi::kLinkXdp:
      out.Set("ifindex", kernel.xdp.ifindex);
      break;
    case abi::kLinkStructOps:
      out.Set("mapId", kernel.struct_ops.map_id);
      break;
    case abi::kLinkNetfilter:
      out.Set("protocolFamily", kernel.netfilter.pf);
      out.Set("hook", kernel.netfilter.hooknum);
      out.Set("priority", kernel.netfilter.priority);
      break;
    case abi::kLinkTcx:
    case abi::kLinkNetkit:
      out.Set("ifindex", kernel.tcx.ifindex);
      out.Set("attachType", AttachTypeName(env, kernel.tcx.attach_type));
      break;
    default:
      break;
  }
}

}  // namespace

Napi::Value Link::Info(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  const char* operation = "get information about";
  if (!target_.open()) return ThrowClosed(env, operation, "link");
  Napi::Object out = Napi::Object::New(env);
  if (target_.is_filter) {
    LIBBPF_OPTS(bpf_tc_opts, opts);
    opts.handle = target_.handle;
    opts.priority = target_.priority;
    LogCapture capture;
    int error = bpf_tc_query(&target_.hook, &opts);
    if (error != 0) return ThrowBpf(env, operation, "clsact filter", error, capture.text());
    out.Set("id", 0);
    out.Set("type", "clsact");
    out.Set("programId", opts.prog_id);
    out.Set("ifindex", target_.hook.ifindex);
    out.Set("direction", target_.hook.attach_point == BPF_TC_INGRESS ? "ingress" : "egress");
    out.Set("handle", target_.handle);
    out.Set("priority", target_.priority);
    return out;
  }
  int fd = Fd(env, operation);
  if (fd < 0) return {};
  abi::LinkInfo kernel = {};
  uint32_t size = sizeof kernel;
  int error = bpf_link_get_info_by_fd(fd, reinterpret_cast<bpf_link_info*>(&kernel), &size);
  if (error != 0) return ThrowBpf(env, operation, "link", error);
  char name[128] = "";
  if (kernel.type == abi::kLinkRawTracepoint || kernel.type == abi::kLinkIter) {
    // The kernel writes the name only when asked with room for it; both kinds keep it in one place.
    kernel.raw_tracepoint.tp_name = reinterpret_cast<uint64_t>(name);
    kernel.raw_tracepoint.tp_name_len = sizeof name;
    size = sizeof kernel;
    error = bpf_link_get_info_by_fd(fd, reinterpret_cast<bpf_link_info*>(&kernel), &size);
    if (error != 0) return ThrowBpf(env, operation, "link", error);
  }
  out.Set("id", kernel.id);
  out.Set("type", LinkTypeName(env, kernel.type));
  out.Set("programId", kernel.prog_id);
  DescribeTarget(env, kernel, name, out);
  return out;
}

// update(program): the new program takes over atomically.
Napi::Value Link::Update(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  if (!target_.open()) return ThrowClosed(env, "update", "link");
  Program* program = HandleOf<Program>(info[0]);
  if (program == nullptr) return ThrowBpf(env, "update", "link", EINVAL, "not a program");
  int program_fd = program->Fd(env, "use");
  if (program_fd < 0) return {};
  int error;
  if (target_.is_filter) {
    LIBBPF_OPTS(bpf_tc_opts, opts);
    opts.prog_fd = program_fd;
    opts.handle = target_.handle;
    opts.priority = target_.priority;
    opts.flags = BPF_TC_F_REPLACE;
    LogCapture capture;
    error = bpf_tc_attach(&target_.hook, &opts);
  } else {
    int fd = Fd(env, "update");
    if (fd < 0) return {};
    error = bpf_link_update(fd, program_fd, nullptr);
  }
  if (error != 0) return ThrowBpf(env, "update", "link", error);
  return env.Undefined();
}

// updateMap(map): for struct_ops, the new map takes over.
Napi::Value Link::UpdateMap(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  if (!target_.open()) return ThrowClosed(env, "update", "link");
  Map* map = HandleOf<Map>(info[0]);
  if (map == nullptr || map->get() == nullptr || target_.link == nullptr) {
    return ThrowBpf(env, "update", "link", EINVAL, "only a struct_ops link takes a map of an object");
  }
  if (map->Fd(env, "use") < 0) return {};
  int error = bpf_link__update_map(target_.link, map->get());
  if (error != 0) return ThrowBpf(env, "update", "link", error);
  return env.Undefined();
}

Napi::Value Link::Pin(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  int fd = Fd(env, "pin");
  if (fd < 0) return {};
  std::string path = TextOf(info[0]);
  int error = bpf_obj_pin(fd, path.c_str());
  if (error != 0) return ThrowBpf(env, "pin", "link at " + path, error);
  return env.Undefined();
}

// readIterator(maxBytes): runs an iterator program over all its elements and returns what it wrote.
Napi::Value Link::ReadIterator(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  const char* operation = "read";
  int fd = Fd(env, operation);
  if (fd < 0) return {};
  size_t max_bytes = U32(info[0]);
  int iterator = bpf_iter_create(fd);
  if (iterator < 0) return ThrowBpf(env, operation, "iterator link", iterator);
  std::string text;
  char chunk[16384];
  int error = 0;
  for (;;) {
    ssize_t got = read(iterator, chunk, sizeof chunk);
    if (got == 0) break;
    if (got < 0) {
      if (errno == EINTR || errno == EAGAIN) continue;
      error = errno;
      break;
    }
    if (text.size() + got > max_bytes) {
      error = EMSGSIZE;
      break;
    }
    text.append(chunk, got);
  }
  close(iterator);
  if (error != 0) return ThrowBpf(env, operation, "iterator link", error);
  Napi::Uint8Array out = Napi::Uint8Array::New(env, text.size());
  if (env.IsExceptionPending()) return {};
  memcpy(out.Data(), text.data(), text.size());
  return out;
}

}  // namespace libbpf_napi
