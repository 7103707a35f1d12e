/*!
 * \file device/run.h
 * \brief One artefact, run on files.
 */
#ifndef HETERO_TVM_DEVICE_RUN_H_
#define HETERO_TVM_DEVICE_RUN_H_

#include <string>
#include <vector>

namespace hetero_tvm::device {

struct RunOptions {
  std::string artefact;
  std::vector<std::string> inputs;  // files, in the order of the artefact's inputs
  std::string save;                 // folder for output_0.npy, …; empty: not saved
  int64_t repeat = 10;
};

/*! \brief Run, print what came out and how long it took, save. */
void Run(const RunOptions& options);

}  // namespace hetero_tvm::device

#endif  // HETERO_TVM_DEVICE_RUN_H_
