/*!
 * \file c_api/tuned_kernels.h
 * \brief Tuned kernels on a driver that they were not proven on, as hetero_tvm/first_load.py has
 * it.
 */
#ifndef HETERO_TVM_RUNTIME_C_API_TUNED_KERNELS_H_
#define HETERO_TVM_RUNTIME_C_API_TUNED_KERNELS_H_

#include <tvm/ffi/extra/module.h>

#include <optional>
#include <string>
#include <vector>

#include "../settings.h"
#include "expected_values.h"

namespace hetero_tvm::runtime {

/*! \brief One tuned kernel of an artefact, and where it was proven. */
struct TunedKernel {
  std::string function;   // its name in the artefact
  std::string kernel;     // what it computes, as a database knows it
  std::string scheduled;  // how, likewise
  std::string device;
  std::string driver;
  std::optional<ExpectedValues> values;  // what it gives; older artefacts do not say
};

/*!
 * \brief Hold the kernels of the artefact at `path`, whose code is loaded, against what they must
 * give, where this device and driver are new to them.
 *
 * How it came out is remembered in the cache folder, where the Python loader's verdicts are too,
 * and not looked at again. While a kernel runs, its verdict is that it ended the process. Kernels
 * that cannot be checked, for an older artefact does not say what they give, are told of on
 * standard error, once for each artefact and process.
 *
 * Throws DeviceFailure for a kernel that is wrong here, and, where the setting `kernels.unproven`
 * is "refuse", for one that cannot be checked; ValueError for another setting.
 */
void CheckTuned(const std::string& path, const tvm::ffi::Module& code,
                const std::vector<TunedKernel>& kernels, const std::string& device,
                const std::string& driver, const Settings& settings);

}  // namespace hetero_tvm::runtime

#endif  // HETERO_TVM_RUNTIME_C_API_TUNED_KERNELS_H_
