#include "object.h"

#include <bpf/btf.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <vector>

#include "args.h"
#include "error.h"
#include "log_capture.h"
#include "map.h"
#include "program.h"

namespace libbpf_napi {

bool ObjectState::Usable(Napi::Env env, const char* operation, const std::string& subject) const {
  if (closed_) {
    ThrowClosed(env, operation, subject);
    return false;
  }
  if (busy) {
    ThrowBpf(env, operation, subject, EBUSY, "its object is being loaded; wait for loadAsync()");
    return false;
  }
  return true;
}

void ObjectState::Close() {
  closed_ = true;
  if (dependents_ == 0) Free();
}

void ObjectState::DropDependent() {
  if (--dependents_ == 0 && closed_) Free();
}

void ObjectState::Free() {
  if (object_ != nullptr) bpf_object__close(object_);
  object_ = nullptr;
  for (int fd : fds_) close(fd);
  fds_.clear();
}

namespace {

// bpf_object__load on a thread of libuv's pool: the verifier may take seconds.
class LoadWorker : public Napi::AsyncWorker {
 public:
  LoadWorker(Napi::Env env, std::shared_ptr<ObjectState> state, std::string subject)
      : AsyncWorker(env),
        deferred_(Napi::Promise::Deferred::New(env)),
        state_(std::move(state)),
        subject_(std::move(subject)) {
    state_->busy = true;
  }

  Napi::Promise promise() const { return deferred_.Promise(); }

  void Execute() override {
    LogCapture capture(state_->verbose());
    error_ = bpf_object__load(state_->get());
    log_ = capture.Take();
  }

  void OnOK() override {
    Napi::Env env = Env();
    state_->busy = false;
    if (error_ == 0) {
      state_->loaded = true;
      deferred_.Resolve(Napi::String::New(env, log_));
      return;
    }
    ThrowBpf(env, "load", subject_, error_, log_);
    // Nothing is pending when the environment is being torn down: then nobody waits either.
    if (env.IsExceptionPending()) deferred_.Reject(env.GetAndClearPendingException().Value());
  }

 private:
  Napi::Promise::Deferred deferred_;
  std::shared_ptr<ObjectState> state_;
  std::string subject_;
  std::string log_;
  int error_ = 0;
};

}  // namespace

Napi::Function Object::Define(Napi::Env env) {
  return DefineClass(env, "NativeObject",
                     {
                         InstanceMethod<&Object::Load>("load"),
                         InstanceMethod<&Object::LoadAsync>("loadAsync"),
                         InstanceMethod<&Object::Close>("close"),
                         InstanceMethod<&Object::Name>("name"),
                         InstanceMethod<&Object::Maps>("maps"),
                         InstanceMethod<&Object::Programs>("programs"),
                         InstanceMethod<&Object::BtfBytes>("btf"),
                         InstanceMethod<&Object::Closed>("closed"),
                         InstanceMethod<&Object::Loaded>("loaded"),
                     });
}

// new NativeObject(path | bytes, name?, pinRoot?, btfPath?, kconfig?, logLevel)
Object::Object(const Napi::CallbackInfo& info) : ObjectWrap(info) {
  Napi::Env env = info.Env();
  info.This().As<Napi::Object>().TypeTag(&kTag);

  std::optional<std::string> name = OptionalText(info[1]);
  std::optional<std::string> pin_root = OptionalText(info[2]);
  std::optional<std::string> btf_path = OptionalText(info[3]);
  std::optional<std::string> kconfig = OptionalText(info[4]);
  uint32_t log_level = U32(info[5]);

  LIBBPF_OPTS(bpf_object_open_opts, opts);
  opts.object_name = OrNull(name);
  opts.pin_root_path = OrNull(pin_root);
  opts.btf_custom_path = OrNull(btf_path);
  opts.kconfig = OrNull(kconfig);
  opts.kernel_log_level = log_level;

  LogCapture capture;
  bpf_object* object = nullptr;
  int error = 0;
  if (info[0].IsString()) {
    name_ = TextOf(info[0]);
    object = bpf_object__open_file(name_.c_str(), &opts);
    error = errno;
  } else {
    // A copy of our own: aligned as libelf likes it, and not to be changed by JavaScript meanwhile.
    Bytes bytes = BytesOf(info[0]);
    std::vector<uint64_t> copy((bytes.size + 7) / 8);
    if (bytes.size > 0) memcpy(copy.data(), bytes.data, bytes.size);
    name_ = name.value_or("bytes");
    if (!name) opts.object_name = "object";
    object = bpf_object__open_mem(copy.data(), bytes.size, &opts);
    error = errno;
  }
  if (object == nullptr) {
    ThrowBpf(env, "open", Subject(), error, capture.text());
    return;
  }
  name_ = bpf_object__name(object);
  state_ = std::make_shared<ObjectState>(object, log_level > 0);
}

bool Object::Ready(Napi::Env env, const char* operation, bool before_load) {
  if (!state_) {
    ThrowClosed(env, operation, Subject());
    return false;
  }
  if (!state_->Usable(env, operation, Subject())) return false;
  if (before_load && state_->loaded) {
    ThrowBpf(env, operation, Subject(), EBUSY, "it is already loaded");
    return false;
  }
  return true;
}

Napi::Value Object::Load(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  if (!Ready(env, "load", true)) return {};
  LogCapture capture(state_->verbose());
  int error = bpf_object__load(state_->get());
  if (error != 0) return ThrowBpf(env, "load", Subject(), error, capture.text());
  state_->loaded = true;
  return Napi::String::New(env, capture.text());
}

Napi::Value Object::LoadAsync(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  if (!Ready(env, "load", true)) return {};
  auto* worker = new LoadWorker(env, state_, Subject());  // frees itself when done
  worker->Queue();
  return worker->promise();
}

Napi::Value Object::Close(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  if (!state_ || state_->closed()) return env.Undefined();
  if (state_->busy) {
    return ThrowBpf(env, "close", Subject(), EBUSY, "it is being loaded; wait for loadAsync()");
  }
  state_->Close();
  return env.Undefined();
}

Napi::Value Object::Name(const Napi::CallbackInfo& info) {
  return Napi::String::New(info.Env(), name_);
}

Napi::Value Object::Closed(const Napi::CallbackInfo& info) {
  return Napi::Boolean::New(info.Env(), !state_ || state_->closed());
}

Napi::Value Object::Loaded(const Napi::CallbackInfo& info) {
  return Napi::Boolean::New(info.Env(), state_ && state_->loaded && !state_->closed());
}

Napi::Value Object::Maps(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  if (!Ready(env, "list maps of", false)) return {};
  Napi::Array list = Napi::Array::New(env);
  uint32_t count = 0;
  bpf_map* map;
  bpf_object__for_each_map(map, state_->get()) {
    Napi::Value handle = Map::Make(env, state_, map);
    if (env.IsExceptionPending()) return {};
    list.Set(count++, handle);
  }
  return list;
}

Napi::Value Object::Programs(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  if (!Ready(env, "list programs of", false)) return {};
  Napi::Array list = Napi::Array::New(env);
  uint32_t count = 0;
  bpf_program* program;
  bpf_object__for_each_program(program, state_->get()) {
    Napi::Value handle = Program::Make(env, state_, program);
    if (env.IsExceptionPending()) return {};
    list.Set(count++, handle);
  }
  return list;
}

// A copy of the object's own type information, or undefined when it was compiled without.
Napi::Value Object::BtfBytes(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  if (!Ready(env, "read the BTF of", false)) return {};
  const btf* types = bpf_object__btf(state_->get());
  if (types == nullptr) return env.Undefined();
  uint32_t size = 0;
  const void* raw = btf__raw_data(types, &size);
  if (raw == nullptr) return ThrowBpf(env, "read the BTF of", Subject(), ENOMEM);
  Napi::Uint8Array bytes = Napi::Uint8Array::New(env, size);
  if (env.IsExceptionPending()) return {};
  memcpy(bytes.Data(), raw, size);
  return bytes;
}

}  // namespace libbpf_napi
