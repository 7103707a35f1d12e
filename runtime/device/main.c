/*!
 * \file device/main.c
 * \brief The program itself. In C: all that it is made of is in the runtime's library.
 *
 * A program in C++ would offer its own C++ library to TVM's libraries, which have another one where
 * it was built for another machine (see ../src/border.h).
 */
int hetero_device_main(int count, char** words);

int main(int count, char** words) { return hetero_device_main(count, words); }
