/*!
 * \file device/serve.cc
 * \brief The RPC session's channel and the functions that it finds here.
 */
#include "serve.h"

#include <fcntl.h>
#include <tvm/ffi/error.h>
#include <tvm/ffi/extra/module.h>
#include <tvm/ffi/function.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <string>

#include "../src/imported.h"

namespace hetero_tvm::device {
namespace {

namespace ffi = tvm::ffi;
using runtime::Imported;
using runtime::Shielded;

void Register() {
  runtime::GlobalNames().Typed("tvm.rpc.server.load_module", [](const ffi::String& path) {
    return Imported("hetero_tvm.code_load")(path).cast<ffi::Module>();
  });
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
