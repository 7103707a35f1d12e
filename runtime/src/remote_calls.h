/*!
 * \file remote_calls.h
 * \brief Recording where a model runs, for a caller that is elsewhere.
 */
#ifndef HETERO_TVM_RUNTIME_REMOTE_CALLS_H_
#define HETERO_TVM_RUNTIME_REMOTE_CALLS_H_

#include <tvm/ffi/extra/module.h>
#include <tvm/ffi/string.h>

#include <cstdint>
#include <functional>
#include <string>

namespace hetero_tvm::runtime {

/*! \brief Call `function`, and note when the artefact's function of that name ran. */
void Noted(const std::string& name, const std::function<void()>& function);

/*!
 * \brief Record `runs` calls of `run` on `machine`, and one before that sets up.
 *
 * `run` returns when all devices are done, and does its work inside Noted().
 * \return As JSON: "rows" as Trace::Take gives them, and "bounds", the start and end of each run,
 *         in nanoseconds of the same clock.
 */
tvm::ffi::String RecordRuns(const tvm::ffi::Module& machine, int64_t runs,
                            int64_t events_per_thread, const std::function<void()>& run);

}  // namespace hetero_tvm::runtime

#endif  // HETERO_TVM_RUNTIME_REMOTE_CALLS_H_
