/*!
 * \file whole_call.h
 * \brief A compiled function, called so that its failure is over when it is told.
 */
#ifndef HETERO_TVM_RUNTIME_WHOLE_CALL_H_
#define HETERO_TVM_RUNTIME_WHOLE_CALL_H_

#include <tvm/ffi/any.h>
#include <tvm/ffi/function.h>

#include "context.h"

namespace hetero_tvm::runtime {

/*!
 * \brief Call `function` and wait until all that it gave to the devices is done.
 *
 * Where it fails, what other devices still do for it is waited for first, so that neither their
 * work nor their errors reach the next call. Where NPU work never came back it is called once more,
 * on the same arguments: by then that work belongs to the CPU, and what the lost work may still
 * write is memory that nobody else gets. Requires: called twice it does what it does called once.
 */
tvm::ffi::Any WholeCall(Context& context, const tvm::ffi::Function& function,
                        const tvm::ffi::AnyView* args, int32_t count);

}  // namespace hetero_tvm::runtime

#endif  // HETERO_TVM_RUNTIME_WHOLE_CALL_H_
