/*!
 * \file device/serve.cc
 * \brief The RPC session's channel and the functions that it finds here.
 */
#include "serve.h"

#include <fcntl.h>
#include <tvm/ffi/container/array.h>
#include <tvm/ffi/container/map.h>
#include <tvm/ffi/error.h>
#include <tvm/ffi/extra/json.h>
#include <tvm/ffi/function.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstdint>
#include <string>

#include "../src/imported.h"
#include "artefact.h"

namespace hetero_tvm::device {
namespace {

namespace ffi = tvm::ffi;
using runtime::FunctionOf;
using runtime::Imported;
using runtime::Shielded;

ffi::String JsonOf(const char* function) { return ffi::json::Stringify(Imported(function)()); }

/*! \brief Milliseconds of each of `runs` calls of `function`, whose inputs are set, as JSON. */
ffi::String Measure(const ffi::Module& machine, const ffi::String& function, int64_t runs) {
  const ffi::Function invoke = FunctionOf(machine, "invoke_stateful");
  const ffi::Function sync = Imported("hetero_tvm.sync");
  ffi::Array<ffi::Any> times;
  for (int64_t i = 0; i < runs; ++i) {
    const auto begin = std::chrono::steady_clock::now();
    invoke(function);
    sync();
    const std::chrono::duration<double, std::milli> took = std::chrono::steady_clock::now() - begin;
    times.push_back(took.count());
  }
  return ffi::json::Stringify(times);
}

void Register() {
  runtime::GlobalNames()
      .Typed("tvm.rpc.server.load_module",
             [](const ffi::String& path) { return LoadChecked(std::string(path)); })
      .Typed("hetero_tvm.measure", Measure)
      .Typed("hetero_tvm.counters_json", [] { return JsonOf("hetero_tvm.counters_read"); })
      .Typed("hetero_tvm.opencl_devices_json", [] { return JsonOf("hetero_tvm.opencl_devices"); });
}

}  // namespace

void Serve() {
  const int in = dup(STDIN_FILENO);
  const int out = dup(STDOUT_FILENO);
  const int nothing = open("/dev/null", O_RDONLY | O_CLOEXEC);
  if (in < 0 || out < 0 || nothing < 0 || dup2(nothing, STDIN_FILENO) < 0 ||
      dup2(STDERR_FILENO, STDOUT_FILENO) < 0) {
    TVM_FFI_THROW(RuntimeError) << "cannot set up stdin and stdout";
  }
  Register();
  const auto send = ffi::Function::FromTyped([out](const ffi::Bytes& bytes) -> int64_t {
    for (;;) {
      const ssize_t sent = write(out, bytes.data(), bytes.size());
      if (sent >= 0 || errno != EINTR) return sent;
    }
  });
  const auto receive = ffi::Function::FromTyped([in](int64_t size) {
    std::string bytes(static_cast<size_t>(size), '\0');
    ssize_t got = 0;
    do {
      got = read(in, bytes.data(), bytes.size());
    } while (got < 0 && errno == EINTR);
    bytes.resize(got > 0 ? static_cast<size_t>(got) : 0);
    return ffi::Bytes(std::move(bytes));
  });
  Imported("rpc.ServerLoop")(Shielded(send), Shielded(receive));
}

}  // namespace hetero_tvm::device
