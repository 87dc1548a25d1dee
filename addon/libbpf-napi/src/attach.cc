// The ways of attaching a program, apart from tcx (tcx.cc). Each takes what TypeScript has checked
// and returns a Link.
#include <bpf/bpf.h>
#include <fcntl.h>
#include <linux/perf_event.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <vector>

#include "args.h"
#include "error.h"
#include "libbpf_version.h"
#include "link.h"
#include "log_capture.h"
#include "map.h"
#include "program.h"

namespace libbpf_napi {

bool Program::Attachable(Napi::Env env) const {
  if (Fd(env, "attach") < 0) return false;
  if (program_ != nullptr) return true;
  ThrowBpf(env, "attach", Subject(), EINVAL,
           "a program opened from a pin or by id has lost its section; attach it by tcx, xdp or an "
           "existing link");
  return false;
}

// `keep`: the object whose memory libbpf needs to detach this link.
Napi::Value Program::Linked(Napi::Env env, bpf_link* link, const std::string& log,
                            std::shared_ptr<ObjectState> keep) const {
  if (link == nullptr) return ThrowBpf(env, "attach", Subject(), errno, log);
  return Link::Make(env, link, std::move(keep));
}

// attach(): as its section says.
Napi::Value Program::Attach(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  if (!Attachable(env)) return {};
  LogCapture capture;
  errno = 0;
  bpf_link* link = bpf_program__attach(program_);
  if (link == nullptr && errno == EOPNOTSUPP && capture.text().empty()) {
    return ThrowBpf(env, "attach", Subject(), EOPNOTSUPP,
                    std::string("its section \"") + bpf_program__section_name(program_) +
                        "\" does not say where to attach it");
  }
  bool usdt = strncmp(bpf_program__section_name(program_), "usdt", 4) == 0;
  return Linked(env, link, capture.text(), usdt ? state_ : nullptr);
}

// attachTrace(cookie): tp_btf, fentry, fexit, fmod_ret, lsm.
Napi::Value Program::AttachTrace(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  if (!Attachable(env)) return {};
  LIBBPF_OPTS(bpf_trace_opts, opts);
  opts.cookie = U64(info[0]);
  LogCapture capture;
  return Linked(env, bpf_program__attach_trace_opts(program_, &opts), capture.text());
}

// attachRawTracepoint(name, cookie)
Napi::Value Program::AttachRawTracepoint(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  if (!Attachable(env)) return {};
  std::string name = TextOf(info[0]);
  uint64_t cookie = U64(info[1]);
  LogCapture capture;
#if LIBBPF_NAPI_HAS(1, 4)
  LIBBPF_OPTS(bpf_raw_tracepoint_opts, opts);
  opts.cookie = cookie;
  bpf_link* link = bpf_program__attach_raw_tracepoint_opts(program_, name.c_str(), &opts);
#else
  if (cookie != 0) {
    return ThrowBpf(env, "attach", Subject(), EOPNOTSUPP, "a cookie here needs libbpf 1.4");
  }
  bpf_link* link = bpf_program__attach_raw_tracepoint(program_, name.c_str());
#endif
  return Linked(env, link, capture.text());
}

// attachTracepoint(category, name, cookie)
Napi::Value Program::AttachTracepoint(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  if (!Attachable(env)) return {};
  std::string category = TextOf(info[0]);
  std::string name = TextOf(info[1]);
  LIBBPF_OPTS(bpf_tracepoint_opts, opts);
  opts.bpf_cookie = U64(info[2]);
  LogCapture capture;
  bpf_link* link =
      bpf_program__attach_tracepoint_opts(program_, category.c_str(), name.c_str(), &opts);
  return Linked(env, link, capture.text());
}

// attachKprobe(function, offset, onReturn, cookie)
Napi::Value Program::AttachKprobe(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  if (!Attachable(env)) return {};
  std::string function = TextOf(info[0]);
  LIBBPF_OPTS(bpf_kprobe_opts, opts);
  opts.offset = U64(info[1]);
  opts.retprobe = Flag(info[2]);
  opts.bpf_cookie = U64(info[3]);
  LogCapture capture;
  bpf_link* link = bpf_program__attach_kprobe_opts(program_, function.c_str(), &opts);
  return Linked(env, link, capture.text());
}

namespace {
// Strings of a JavaScript array, and the pointers to them that libbpf wants.
struct TextList {
  std::vector<std::string> texts;
  std::vector<const char*> pointers;

  explicit TextList(const Napi::Value& value) {
    if (!value.IsArray()) return;
    Napi::Array array = value.As<Napi::Array>();
    for (uint32_t i = 0; i < array.Length(); i++) texts.push_back(TextOf(array.Get(i)));
    for (const std::string& text : texts) pointers.push_back(text.c_str());
  }
};

std::vector<__u64> Cookies(const Napi::Value& value) {
  std::vector<__u64> cookies;
  if (!value.IsArray()) return cookies;
  Napi::Array array = value.As<Napi::Array>();
  for (uint32_t i = 0; i < array.Length(); i++) cookies.push_back(U64(array.Get(i)));
  return cookies;
}
}  // namespace

// attachKprobeMulti(pattern | functions, onReturn, cookies?)
Napi::Value Program::AttachKprobeMulti(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  if (!Attachable(env)) return {};
  std::optional<std::string> pattern = OptionalText(info[0]);
  TextList functions(info[0]);
  std::vector<__u64> cookies = Cookies(info[2]);
  LIBBPF_OPTS(bpf_kprobe_multi_opts, opts);
  opts.retprobe = Flag(info[1]);
  if (!pattern) {
    opts.syms = functions.pointers.data();
    opts.cnt = functions.pointers.size();
    if (cookies.size() == opts.cnt) opts.cookies = cookies.data();
  }
  LogCapture capture;
  bpf_link* link = bpf_program__attach_kprobe_multi_opts(program_, OrNull(pattern), &opts);
  return Linked(env, link, capture.text());
}

// attachKsyscall(name, onReturn, cookie)
Napi::Value Program::AttachKsyscall(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  if (!Attachable(env)) return {};
  std::string name = TextOf(info[0]);
  LIBBPF_OPTS(bpf_ksyscall_opts, opts);
  opts.retprobe = Flag(info[1]);
  opts.bpf_cookie = U64(info[2]);
  LogCapture capture;
  return Linked(env, bpf_program__attach_ksyscall(program_, name.c_str(), &opts), capture.text());
}

// attachUprobe(path, function?, offset, pid, onReturn, cookie)
Napi::Value Program::AttachUprobe(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  if (!Attachable(env)) return {};
  std::string path = TextOf(info[0]);
  std::optional<std::string> function = OptionalText(info[1]);
  LIBBPF_OPTS(bpf_uprobe_opts, opts);
  opts.func_name = OrNull(function);
  opts.retprobe = Flag(info[4]);
  opts.bpf_cookie = U64(info[5]);
  LogCapture capture;
  bpf_link* link = bpf_program__attach_uprobe_opts(program_, I32(info[3], -1), path.c_str(),
                                                   U64(info[2]), &opts);
  return Linked(env, link, capture.text());
}

// attachUprobeMulti(path, pattern | functions, pid, onReturn, cookies?)
Napi::Value Program::AttachUprobeMulti(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  if (!Attachable(env)) return {};
  std::string path = TextOf(info[0]);
  std::optional<std::string> pattern = OptionalText(info[1]);
  TextList functions(info[1]);
  std::vector<__u64> cookies = Cookies(info[4]);
  LIBBPF_OPTS(bpf_uprobe_multi_opts, opts);
  opts.retprobe = Flag(info[3]);
  if (!pattern) {
    opts.syms = functions.pointers.data();
    opts.cnt = functions.pointers.size();
    if (cookies.size() == opts.cnt) opts.cookies = cookies.data();
  }
  LogCapture capture;
  bpf_link* link = bpf_program__attach_uprobe_multi(program_, I32(info[2], -1), path.c_str(),
                                                    OrNull(pattern), &opts);
  return Linked(env, link, capture.text());
}

// attachUsdt(path, provider, name, pid, cookie)
Napi::Value Program::AttachUsdt(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  if (!Attachable(env)) return {};
  std::string path = TextOf(info[0]);
  std::string provider = TextOf(info[1]);
  std::string name = TextOf(info[2]);
  LIBBPF_OPTS(bpf_usdt_opts, opts);
  opts.usdt_cookie = U64(info[4]);
  LogCapture capture;
  bpf_link* link = bpf_program__attach_usdt(program_, I32(info[3], -1), path.c_str(),
                                            provider.c_str(), name.c_str(), &opts);
  return Linked(env, link, capture.text(), state_);
}

// attachPerfEvent(type, config, samplePeriod, sampleFrequency, pid, cpu, cookie)
Napi::Value Program::AttachPerfEvent(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  if (!Attachable(env)) return {};
  perf_event_attr attr = {};
  attr.size = sizeof attr;
  attr.type = U32(info[0]);
  attr.config = U64(info[1]);
  if (uint64_t frequency = U64(info[3]); frequency != 0) {
    attr.freq = 1;
    attr.sample_freq = frequency;
  } else {
    attr.sample_period = U64(info[2]);
  }
  int event = syscall(SYS_perf_event_open, &attr, I32(info[4], -1), I32(info[5], -1), -1,
                      PERF_FLAG_FD_CLOEXEC);
  if (event < 0) return ThrowBpf(env, "open a perf event for", Subject(), errno);
  LIBBPF_OPTS(bpf_perf_event_opts, opts);
  opts.bpf_cookie = U64(info[6]);
  LogCapture capture;
  bpf_link* link = bpf_program__attach_perf_event_opts(program_, event, &opts);
  if (link == nullptr) {
    int error = errno;
    close(event);
    return ThrowBpf(env, "attach", Subject(), error, capture.text());
  }
  return Link::Make(env, link);  // libbpf closes the event with the link
}

namespace {
// Opens what a program is attached to by path (a cgroup directory, a network namespace).
int OpenTarget(Napi::Env env, const std::string& subject, const std::string& path, int flags) {
  int fd = open(path.c_str(), flags | O_RDONLY | O_CLOEXEC);
  if (fd < 0) ThrowBpf(env, "attach", subject + " to " + path, errno, "the path cannot be opened");
  return fd;
}
}  // namespace

// attachCgroup(path)
Napi::Value Program::AttachCgroup(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  if (!Attachable(env)) return {};
  int target = OpenTarget(env, Subject(), TextOf(info[0]), O_DIRECTORY);
  if (target < 0) return {};
  LogCapture capture;
  bpf_link* link = bpf_program__attach_cgroup(program_, target);
  int error = errno;
  close(target);
  errno = error;
  return Linked(env, link, capture.text());
}

// attachNetns(path): flow dissector, sk_lookup.
Napi::Value Program::AttachNetns(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  if (!Attachable(env)) return {};
  int target = OpenTarget(env, Subject(), TextOf(info[0]), 0);
  if (target < 0) return {};
  LogCapture capture;
  bpf_link* link = bpf_program__attach_netns(program_, target);
  int error = errno;
  close(target);
  errno = error;
  return Linked(env, link, capture.text());
}

// attachXdp(ifindex, flags)
Napi::Value Program::AttachXdp(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  int fd = Fd(env, "attach");
  if (fd < 0) return {};
  LIBBPF_OPTS(bpf_link_create_opts, opts);
  opts.flags = U32(info[1]);
  int link = bpf_link_create(fd, U32(info[0]), BPF_XDP, &opts);
  if (link < 0) {
    return ThrowBpf(env, "attach", Subject() + " to xdp of interface " + std::to_string(U32(info[0])),
                    link);
  }
  return Link::Make(env, link);
}

// attachNetfilter(protocolFamily, hook, priority, flags)
Napi::Value Program::AttachNetfilter(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  if (!Attachable(env)) return {};
  LIBBPF_OPTS(bpf_netfilter_opts, opts);
  opts.pf = U32(info[0]);
  opts.hooknum = U32(info[1]);
  opts.priority = I32(info[2]);
  opts.flags = U32(info[3]);
  LogCapture capture;
  return Linked(env, bpf_program__attach_netfilter(program_, &opts), capture.text());
}

// attachIter(map?): over all elements of a map, or of what the section names.
Napi::Value Program::AttachIter(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  if (!Attachable(env)) return {};
  LIBBPF_OPTS(bpf_iter_attach_opts, opts);
  bpf_iter_link_info target = {};
  if (Map* map = HandleOf<Map>(info[0])) {
    int map_fd = map->Fd(env, "iterate over");
    if (map_fd < 0) return {};
    target.map.map_fd = map_fd;
    opts.link_info = &target;
    opts.link_info_len = sizeof target;
  }
  LogCapture capture;
  return Linked(env, bpf_program__attach_iter(program_, &opts), capture.text());
}

// attachFreplace(targetProgram, functionName)
Napi::Value Program::AttachFreplace(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  if (!Attachable(env)) return {};
  Program* target = HandleOf<Program>(info[0]);
  if (target == nullptr) return ThrowBpf(env, "attach", Subject(), EINVAL, "the target is no program");
  int target_fd = target->Fd(env, "replace a function of");
  if (target_fd < 0) return {};
  std::string function = TextOf(info[1]);
  LogCapture capture;
  bpf_link* link = bpf_program__attach_freplace(program_, target_fd, function.c_str());
  return Linked(env, link, capture.text());
}

}  // namespace libbpf_napi
