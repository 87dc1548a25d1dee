#include "program.h"

#include <bpf/bpf.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <vector>

#include "args.h"
#include "error.h"
#include "fd_kind.h"
#include "log_capture.h"

namespace libbpf_napi {

struct Program::Init {
  std::shared_ptr<ObjectState> state;
  bpf_program* program;
  int fd;
};

Napi::Function Program::Define(Napi::Env env) {
  return DefineClass(env, "NativeProgram",
                     {
                         InstanceMethod<&Program::Info>("info"),
                         InstanceMethod<&Program::KernelInfo>("kernelInfo"),
                         InstanceMethod<&Program::FdOf>("fd"),
                         InstanceMethod<&Program::Close>("close"),
                         InstanceMethod<&Program::Closed>("closed"),
                         InstanceMethod<&Program::SetAutoload>("setAutoload"),
                         InstanceMethod<&Program::SetType>("setType"),
                         InstanceMethod<&Program::SetAttachTarget>("setAttachTarget"),
                         InstanceMethod<&Program::TestRun>("testRun"),
                         InstanceMethod<&Program::Pin>("pin"),
                         InstanceMethod<&Program::Unpin>("unpin"),
                         InstanceMethod<&Program::Attach>("attach"),
                         InstanceMethod<&Program::AttachTrace>("attachTrace"),
                         InstanceMethod<&Program::AttachRawTracepoint>("attachRawTracepoint"),
                         InstanceMethod<&Program::AttachTracepoint>("attachTracepoint"),
                         InstanceMethod<&Program::AttachKprobe>("attachKprobe"),
                         InstanceMethod<&Program::AttachKprobeMulti>("attachKprobeMulti"),
                         InstanceMethod<&Program::AttachKsyscall>("attachKsyscall"),
                         InstanceMethod<&Program::AttachUprobe>("attachUprobe"),
                         InstanceMethod<&Program::AttachUprobeMulti>("attachUprobeMulti"),
                         InstanceMethod<&Program::AttachUsdt>("attachUsdt"),
                         InstanceMethod<&Program::AttachPerfEvent>("attachPerfEvent"),
                         InstanceMethod<&Program::AttachCgroup>("attachCgroup"),
                         InstanceMethod<&Program::AttachNetns>("attachNetns"),
                         InstanceMethod<&Program::AttachXdp>("attachXdp"),
                         InstanceMethod<&Program::AttachNetfilter>("attachNetfilter"),
                         InstanceMethod<&Program::AttachIter>("attachIter"),
                         InstanceMethod<&Program::AttachFreplace>("attachFreplace"),
                         InstanceMethod<&Program::AttachTcx>("attachTcx"),
                         InstanceMethod<&Program::AttachClsact>("attachClsact"),
                         InstanceMethod<&Program::AttachClsactDetached>("attachClsactDetached"),
                         InstanceMethod<&Program::AttachTcxDetached>("attachTcxDetached"),
                     });
}

Program::Program(const Napi::CallbackInfo& info) : ObjectWrap(info) {
  Napi::Env env = info.Env();
  info.This().As<Napi::Object>().TypeTag(&kTag);
  auto* init = info[0].As<Napi::External<Init>>().Data();
  state_ = init->state;
  program_ = init->program;
  own_fd_ = std::exchange(init->fd, -1);
  if (program_ != nullptr) {
    name_ = bpf_program__name(program_);
    return;
  }
  bpf_prog_info kernel = {};
  uint32_t size = sizeof kernel;
  int error = bpf_prog_get_info_by_fd(own_fd_, &kernel, &size);
  if (error != 0) {
    ThrowBpf(env, "open", "program", error);
    return;
  }
  name_ = kernel.name;
}

Program::~Program() {
  if (own_fd_ >= 0) close(own_fd_);
}

Napi::Value Program::Make(Napi::Env env, std::shared_ptr<ObjectState> state, bpf_program* program) {
  Init init{std::move(state), program, -1};
  return EnvData::Of(env).program_class.New({Napi::External<Init>::New(env, &init)});
}

Napi::Value Program::Make(Napi::Env env, int fd) {
  Init init{nullptr, nullptr, fd};
  Napi::Value handle = EnvData::Of(env).program_class.New({Napi::External<Init>::New(env, &init)});
  if (init.fd >= 0) close(init.fd);
  return handle;
}

Napi::Value Program::FromPinned(const Napi::CallbackInfo& info) {
  std::string path = TextOf(info[0]);
  int fd = bpf_obj_get(path.c_str());
  std::string subject = Quoted("pinned program", path.c_str());
  if (fd < 0) return ThrowBpf(info.Env(), "open", subject, fd);
  if (!FdIs(fd, "prog")) {
    close(fd);
    return ThrowBpf(info.Env(), "open", subject, EINVAL, "this is not a BPF program");
  }
  return Make(info.Env(), fd);
}

Napi::Value Program::FromId(const Napi::CallbackInfo& info) {
  uint32_t id = U32(info[0]);
  int fd = bpf_prog_get_fd_by_id(id);
  if (fd < 0) return ThrowBpf(info.Env(), "open", "the program of id " + std::to_string(id), fd);
  return Make(info.Env(), fd);
}

std::string Program::Subject() const { return Quoted("program", name_.c_str()); }

int Program::Fd(Napi::Env env, const char* operation) const {
  if (program_ == nullptr) {
    if (own_fd_ < 0) ThrowClosed(env, operation, Subject());
    return own_fd_;
  }
  if (!state_->Usable(env, operation, Subject())) return -1;
  int fd = bpf_program__fd(program_);
  if (fd < 0) {
    const char* why = state_->loaded ? "it was not loaded (autoload is off)" : "its object is not loaded";
    ThrowBpf(env, operation, Subject(), ENODEV, why);
    return -1;
  }
  return fd;
}

bool Program::BeforeLoad(Napi::Env env, const char* operation) const {
  if (program_ == nullptr) {
    ThrowBpf(env, operation, Subject(), EBUSY, "it is already in the kernel");
    return false;
  }
  if (!state_->Usable(env, operation, Subject())) return false;
  if (state_->loaded) {
    ThrowBpf(env, operation, Subject(), EBUSY, "this must be done before its object is loaded");
    return false;
  }
  return true;
}

Napi::Value Program::Info(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  Napi::Object out = Napi::Object::New(env);
  out.Set("name", name_);
  uint32_t type = 0;
  if (program_ != nullptr) {
    if (!state_->Usable(env, "describe", Subject())) return {};
    type = bpf_program__type(program_);
    out.Set("section", bpf_program__section_name(program_));
    out.Set("autoload", bpf_program__autoload(program_));
    out.Set("instructionCount", static_cast<double>(bpf_program__insn_cnt(program_)));
    auto attach_type = bpf_program__expected_attach_type(program_);
    const char* attach_name = libbpf_bpf_attach_type_str(attach_type);
    out.Set("attachTypeId", static_cast<uint32_t>(attach_type));
    if (attach_name != nullptr) out.Set("attachType", attach_name);
  } else {
    int fd = Fd(env, "describe");
    if (fd < 0) return {};
    bpf_prog_info kernel = {};
    uint32_t size = sizeof kernel;
    int error = bpf_prog_get_info_by_fd(fd, &kernel, &size);
    if (error != 0) return ThrowBpf(env, "describe", Subject(), error);
    type = kernel.type;
    out.Set("section", "");
    out.Set("autoload", true);
    out.Set("instructionCount", kernel.xlated_prog_len / 8);
    out.Set("attachTypeId", 0);
  }
  out.Set("typeId", type);
  const char* type_name = libbpf_bpf_prog_type_str(static_cast<bpf_prog_type>(type));
  out.Set("type", type_name != nullptr ? std::string(type_name) : "type " + std::to_string(type));
  return out;
}

Napi::Value Program::KernelInfo(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  const char* operation = "get information about";
  int fd = Fd(env, operation);
  if (fd < 0) return {};
  bpf_prog_info kernel = {};
  uint32_t size = sizeof kernel;
  int error = bpf_prog_get_info_by_fd(fd, &kernel, &size);
  if (error != 0) return ThrowBpf(env, operation, Subject(), error);
  // A second call fetches the ids of the maps, now that their number is known.
  std::vector<uint32_t> map_ids(kernel.nr_map_ids);
  bpf_prog_info again = {};
  again.nr_map_ids = map_ids.size();
  again.map_ids = reinterpret_cast<uint64_t>(map_ids.data());
  size = sizeof again;
  error = bpf_prog_get_info_by_fd(fd, &again, &size);
  if (error != 0) return ThrowBpf(env, operation, Subject(), error);

  Napi::Object out = Napi::Object::New(env);
  char tag[2 * BPF_TAG_SIZE + 1];
  for (int i = 0; i < BPF_TAG_SIZE; i++) snprintf(tag + 2 * i, 3, "%02x", kernel.tag[i]);
  out.Set("id", kernel.id);
  out.Set("name", kernel.name);
  out.Set("tag", tag);
  out.Set("loadedAtNs", Napi::BigInt::New(env, uint64_t{kernel.load_time}));
  out.Set("uid", kernel.created_by_uid);
  out.Set("gplCompatible", static_cast<bool>(kernel.gpl_compatible));
  out.Set("translatedBytes", kernel.xlated_prog_len);
  out.Set("nativeBytes", kernel.jited_prog_len);
  out.Set("verifiedInstructions", kernel.verified_insns);
  out.Set("btfId", kernel.btf_id);
  out.Set("runCount", Napi::BigInt::New(env, uint64_t{kernel.run_cnt}));
  out.Set("runTimeNs", Napi::BigInt::New(env, uint64_t{kernel.run_time_ns}));
  out.Set("recursionMisses", Napi::BigInt::New(env, uint64_t{kernel.recursion_misses}));
  Napi::Array ids = Napi::Array::New(env, map_ids.size());
  for (size_t i = 0; i < map_ids.size(); i++) ids.Set(static_cast<uint32_t>(i), map_ids[i]);
  out.Set("mapIds", ids);
  return out;
}

Napi::Value Program::FdOf(const Napi::CallbackInfo& info) {
  int fd = Fd(info.Env(), "get the descriptor of");
  if (fd < 0) return {};
  return Napi::Number::New(info.Env(), fd);
}

Napi::Value Program::Close(const Napi::CallbackInfo& info) {
  if (own_fd_ >= 0) close(std::exchange(own_fd_, -1));
  return info.Env().Undefined();
}

Napi::Value Program::Closed(const Napi::CallbackInfo& info) {
  return Napi::Boolean::New(info.Env(), program_ != nullptr ? state_->closed() : own_fd_ < 0);
}

Napi::Value Program::SetAutoload(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  if (!BeforeLoad(env, "set autoload of")) return {};
  int error = bpf_program__set_autoload(program_, Flag(info[0]));
  if (error != 0) return ThrowBpf(env, "set autoload of", Subject(), error);
  return env.Undefined();
}

// setType(type, expectedAttachType)
Napi::Value Program::SetType(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  const char* operation = "set the type of";
  if (!BeforeLoad(env, operation)) return {};
  int error = bpf_program__set_type(program_, static_cast<bpf_prog_type>(U32(info[0])));
  if (error == 0) {
    auto attach_type = static_cast<bpf_attach_type>(U32(info[1]));
    error = bpf_program__set_expected_attach_type(program_, attach_type);
  }
  if (error != 0) return ThrowBpf(env, operation, Subject(), error);
  return env.Undefined();
}

// setAttachTarget(functionName, targetProgram?): fentry/fexit/tp_btf/lsm/freplace.
Napi::Value Program::SetAttachTarget(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  const char* operation = "set the attach target of";
  if (!BeforeLoad(env, operation)) return {};
  std::string function = TextOf(info[0]);
  int target_fd = 0;
  if (Program* target = HandleOf<Program>(info[1])) {
    target_fd = target->Fd(env, "use");
    if (target_fd < 0) return {};
  }
  LogCapture capture;
  int error = bpf_program__set_attach_target(program_, target_fd, function.c_str());
  if (error != 0) {
    return ThrowBpf(env, operation, Subject() + " to \"" + function + "\"", error, capture.text());
  }
  return env.Undefined();
}

// testRun(data?, ctx?, dataOut?, ctxOut?, repeat, cpu, flags, batchSize):
//   {retval, durationNs, dataBytes, ctxBytes}
Napi::Value Program::TestRun(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  int fd = Fd(env, "test-run");
  if (fd < 0) return {};
  Bytes data = BytesOf(info[0]);
  Bytes ctx = BytesOf(info[1]);
  Bytes data_out = BytesOf(info[2]);
  Bytes ctx_out = BytesOf(info[3]);
  LIBBPF_OPTS(bpf_test_run_opts, opts);
  opts.data_in = data.size > 0 ? data.data : nullptr;
  opts.data_size_in = data.size;
  opts.ctx_in = ctx.size > 0 ? ctx.data : nullptr;
  opts.ctx_size_in = ctx.size;
  opts.data_out = data_out.size > 0 ? data_out.data : nullptr;
  opts.data_size_out = data_out.size;
  opts.ctx_out = ctx_out.size > 0 ? ctx_out.data : nullptr;
  opts.ctx_size_out = ctx_out.size;
  opts.repeat = I32(info[4]);
  opts.cpu = U32(info[5]);
  opts.flags = U32(info[6]);
  opts.batch_size = U32(info[7]);
  int error = bpf_prog_test_run_opts(fd, &opts);
  if (error != 0) {
    const char* why = error == -ENOSPC ? "the output is larger than the room given for it" : "";
    return ThrowBpf(env, "test-run", Subject(), error, why);
  }
  Napi::Object out = Napi::Object::New(env);
  out.Set("retval", opts.retval);
  out.Set("durationNs", opts.duration);
  out.Set("dataBytes", opts.data_size_out);
  out.Set("ctxBytes", opts.ctx_size_out);
  return out;
}

Napi::Value Program::Pin(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  std::string path = TextOf(info[0]);
  int fd = Fd(env, "pin");
  if (fd < 0) return {};
  LogCapture capture;
  int error = program_ != nullptr ? bpf_program__pin(program_, path.c_str())
                                  : bpf_obj_pin(fd, path.c_str());
  if (error != 0) return ThrowBpf(env, "pin", Subject() + " at " + path, error, capture.text());
  return env.Undefined();
}

Napi::Value Program::Unpin(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  std::string path = TextOf(info[0]);
  if (Fd(env, "unpin") < 0) return {};
  if (unlink(path.c_str()) != 0) return ThrowBpf(env, "unpin", Subject() + " at " + path, errno);
  return env.Undefined();
}

}  // namespace libbpf_napi
