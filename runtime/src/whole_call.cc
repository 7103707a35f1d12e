/*!
 * \file whole_call.cc
 * \brief Calling, settling, and calling again.
 */
#include "whole_call.h"

#include <tvm/ffi/error.h>

namespace hetero_tvm::runtime {

tvm::ffi::Any WholeCall(Context& context, const tvm::ffi::Function& function,
                        const tvm::ffi::AnyView* args, int32_t count) {
  for (bool again = false;; again = true) {
    const int64_t hangs = context.counters.npu_hangs.Value();
    try {
      tvm::ffi::Any result;
      function.CallPacked(args, count, &result);
      context.ordering.WaitForAll();
      return result;
    } catch (const tvm::ffi::Error&) {
      SyncOptions::TakeGpuShare(1);  // it did not come to say so itself
      context.ordering.Settle();
      if (again || context.counters.npu_hangs.Value() <= hangs) throw;
    }
  }
}

}  // namespace hetero_tvm::runtime
