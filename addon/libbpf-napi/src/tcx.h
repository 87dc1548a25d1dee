// tcx (Linux 6.6): programs on a device's ingress and egress. The kernel can hold them by a link
// (Program::AttachTcx) or by the device alone (Program::AttachTcxDetached).
#pragma once

#include <napi.h>

namespace libbpf_napi {

// queryTcx(ifindex, egress): [{progId, linkId, name}] in the order in which they run.
Napi::Value QueryTcx(const Napi::CallbackInfo& info);

// detachTcx(ifindex, egress, programId): ends what AttachTcxDetached started.
Napi::Value DetachTcx(const Napi::CallbackInfo& info);

// tcxSupported(): does this kernel know tcx?
Napi::Value TcxSupported(const Napi::CallbackInfo& info);

}  // namespace libbpf_napi
