#pragma once

#include <bpf/libbpf.h>
#include <napi.h>

#include <memory>
#include <string>

#include "object.h"

namespace libbpf_napi {

// A program of an object, or one that stands alone (opened from a pin or by id).
class Program : public Napi::ObjectWrap<Program> {
 public:
  static constexpr napi_type_tag kTag = {0x6c6962627066206f, 0x0000000000000004};
  static Napi::Function Define(Napi::Env env);
  explicit Program(const Napi::CallbackInfo& info);
  ~Program() override;

  static Napi::Value Make(Napi::Env env, std::shared_ptr<ObjectState> state, bpf_program* program);
  // Owns `fd`, also when this fails.
  static Napi::Value Make(Napi::Env env, int fd);
  static Napi::Value FromPinned(const Napi::CallbackInfo& info);
  static Napi::Value FromId(const Napi::CallbackInfo& info);

  // The program's descriptor; throws and returns -1 when closed or not loaded.
  int Fd(Napi::Env env, const char* operation) const;
  bpf_program* get() const { return program_; }
  std::string Subject() const;

 private:
  struct Init;

  Napi::Value Info(const Napi::CallbackInfo& info);
  Napi::Value KernelInfo(const Napi::CallbackInfo& info);
  Napi::Value FdOf(const Napi::CallbackInfo& info);
  Napi::Value Close(const Napi::CallbackInfo& info);
  Napi::Value Closed(const Napi::CallbackInfo& info);

  Napi::Value SetAutoload(const Napi::CallbackInfo& info);
  Napi::Value SetType(const Napi::CallbackInfo& info);
  Napi::Value SetAttachTarget(const Napi::CallbackInfo& info);
  Napi::Value TestRun(const Napi::CallbackInfo& info);
  Napi::Value Pin(const Napi::CallbackInfo& info);
  Napi::Value Unpin(const Napi::CallbackInfo& info);

  // In attach.cc: one per way of attaching.
  Napi::Value Attach(const Napi::CallbackInfo& info);
  Napi::Value AttachTrace(const Napi::CallbackInfo& info);
  Napi::Value AttachRawTracepoint(const Napi::CallbackInfo& info);
  Napi::Value AttachTracepoint(const Napi::CallbackInfo& info);
  Napi::Value AttachKprobe(const Napi::CallbackInfo& info);
  Napi::Value AttachKprobeMulti(const Napi::CallbackInfo& info);
  Napi::Value AttachKsyscall(const Napi::CallbackInfo& info);
  Napi::Value AttachUprobe(const Napi::CallbackInfo& info);
  Napi::Value AttachUprobeMulti(const Napi::CallbackInfo& info);
  Napi::Value AttachUsdt(const Napi::CallbackInfo& info);
  Napi::Value AttachPerfEvent(const Napi::CallbackInfo& info);
  Napi::Value AttachCgroup(const Napi::CallbackInfo& info);
  Napi::Value AttachNetns(const Napi::CallbackInfo& info);
  Napi::Value AttachXdp(const Napi::CallbackInfo& info);
  Napi::Value AttachNetfilter(const Napi::CallbackInfo& info);
  Napi::Value AttachIter(const Napi::CallbackInfo& info);
  Napi::Value AttachFreplace(const Napi::CallbackInfo& info);
  Napi::Value AttachTcx(const Napi::CallbackInfo& info);
  Napi::Value AttachClsact(const Napi::CallbackInfo& info);
  Napi::Value AttachClsactDetached(const Napi::CallbackInfo& info);
  Napi::Value AttachTcxDetached(const Napi::CallbackInfo& info);

  bool AttachFilter(const Napi::CallbackInfo& info, bpf_tc_hook* hook, bpf_tc_opts* filter);
  bool BeforeLoad(Napi::Env env, const char* operation) const;
  // Ready to be attached through libbpf, which needs the bpf_program: throws otherwise.
  bool Attachable(Napi::Env env) const;
  Napi::Value Linked(Napi::Env env, bpf_link* link, const std::string& log,
                     std::shared_ptr<ObjectState> keep = nullptr) const;

  std::shared_ptr<ObjectState> state_;
  bpf_program* program_ = nullptr;
  int own_fd_ = -1;
  std::string name_;
};

}  // namespace libbpf_napi
