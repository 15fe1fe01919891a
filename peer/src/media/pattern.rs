//! A test pattern: colour bars, a clock that runs, a mark that moves, a flash with each second, and snow, which shows
//! how much the line carries: no encoder makes it small without making it plain.

/// In pixels; of even numbers, since colours are of two by two.
pub(super) const WIDTH: usize = 640;
/// In pixels.
pub(super) const HEIGHT: usize = 360;

/// The picture, in YUV with a colour for every four pixels (I420), limited range of BT.601.
#[derive(Debug)]
pub(super) struct Pattern {
    /// Without what moves.
    bars: Planes,
    planes: Planes,
}

#[derive(Debug, Clone)]
struct Planes {
    y: Vec<u8>,
    u: Vec<u8>,
    v: Vec<u8>,
}

impl Default for Pattern {
    fn default() -> Self {
        let mut bars = Planes {
            y: vec![BLACK.0; WIDTH * HEIGHT],
            u: vec![BLACK.1; WIDTH * HEIGHT / 4],
            v: vec![BLACK.2; WIDTH * HEIGHT / 4],
        };
        for (index, color) in BARS.into_iter().enumerate() {
            let (left, right) = (index * WIDTH / BARS.len(), (index + 1) * WIDTH / BARS.len());
            bars.fill(Area { left, top: 0, width: right - left, height: HEIGHT * 2 / 3 }, color);
        }
        Self { planes: bars.clone(), bars }
    }
}

impl Pattern {
    /// Draws the picture of this time: returns its three planes.
    pub(super) fn draw(&mut self, milliseconds: u64) -> [&[u8]; 3] {
        self.planes.clone_from(&self.bars);
        let (seconds, within) = (milliseconds / 1000, milliseconds % 1000);
        let digits = [
            seconds / 36_000 % 10,
            seconds / 3600 % 10,
            COLON,
            seconds / 600 % 6,
            seconds / 60 % 10,
            COLON,
            seconds / 10 % 6,
            seconds % 10,
            POINT,
            within / 100,
            within / 10 % 10,
            within % 10,
        ];
        let mut left = MARGIN;
        for digit in digits {
            left += self.planes.digit(left, digit) + STROKE;
        }
        self.planes.snow(milliseconds);
        let flash = Area { left: WIDTH - MARGIN - 60, top: HEIGHT * 2 / 3 + 30, width: 60, height: 60 };
        if within < 100 {
            self.planes.fill(flash, WHITE);
        }
        let travel = (WIDTH - MARK) as u64 * within / 1000;
        let left = usize::try_from(travel).unwrap_or(0);
        self.planes.fill(Area { left, top: HEIGHT * 2 / 3, width: MARK, height: 8 }, WHITE);
        [&self.planes.y, &self.planes.u, &self.planes.v]
    }
}

#[derive(Clone, Copy)]
struct Area {
    left: usize,
    top: usize,
    width: usize,
    height: usize,
}

impl Planes {
    fn fill(&mut self, area: Area, (y, u, v): (u8, u8, u8)) {
        fill(&mut self.y, WIDTH, area, y);
        let half =
            Area { left: area.left / 2, top: area.top / 2, width: area.width / 2, height: area.height / 2 };
        fill(&mut self.u, WIDTH / 2, half, u);
        fill(&mut self.v, WIDTH / 2, half, v);
    }

    /// Other grey dots at each time, and the same ones at the same time.
    fn snow(&mut self, milliseconds: u64) {
        let mut state = milliseconds.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        for row in self.y.chunks_mut(WIDTH).skip(SNOW.top).take(SNOW.height) {
            for dot in row.iter_mut().skip(SNOW.left).take(SNOW.width) {
                // Xorshift64.
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                *dot = BLACK.0 + state.to_le_bytes()[3] / 8;
            }
        }
    }

    /// Draws a digit as a pocket calculator does: returns how wide it is.
    fn digit(&mut self, left: usize, digit: u64) -> usize {
        let top = HEIGHT * 2 / 3 + 30;
        let (long, across) = (30, 24);
        let mut dot =
            |down: usize| self.fill(Area { left, top: top + down, width: STROKE, height: STROKE }, WHITE);
        if digit == COLON {
            dot(long / 2);
            dot(long + long / 2);
            return STROKE;
        }
        if digit == POINT {
            dot(2 * long);
            return STROKE;
        }
        let segments =
            usize::try_from(digit).ok().and_then(|digit| SEGMENTS.get(digit)).copied().unwrap_or(0);
        let upright = |left, down| Area { left, top: top + down, width: STROKE, height: long };
        let lying = |down| Area { left, top: top + down, width: across, height: STROKE };
        let right = left + across - STROKE;
        let areas = [
            lying(0),
            upright(right, 0),
            upright(right, long),
            lying(2 * long),
            upright(left, long),
            upright(left, 0),
            lying(long),
        ];
        for (index, area) in areas.into_iter().enumerate() {
            if segments >> index & 1 == 1 {
                self.fill(area, WHITE);
            }
        }
        across
    }
}

fn fill(plane: &mut [u8], width: usize, area: Area, value: u8) {
    for row in plane.chunks_mut(width).skip(area.top).take(area.height) {
        if let Some(pixels) = row.get_mut(area.left..area.left + area.width) {
            pixels.fill(value);
        }
    }
}

type Color = (u8, u8, u8);
const WHITE: Color = (235, 128, 128);
const BLACK: Color = (16, 128, 128);
/// At three quarters: white, yellow, cyan, green, magenta, red, blue.
const BARS: [Color; 7] = [
    (180, 128, 128),
    (162, 44, 142),
    (131, 156, 44),
    (112, 72, 58),
    (84, 184, 198),
    (65, 100, 212),
    (35, 212, 114),
];
/// From the top clockwise, and the middle last.
const SEGMENTS: [u8; 10] = [0x3f, 0x06, 0x5b, 0x4f, 0x66, 0x6d, 0x7d, 0x07, 0x7f, 0x6f];
const SNOW: Area = Area { left: 430, top: HEIGHT * 2 / 3 + 22, width: 96, height: 80 };
const COLON: u64 = 10;
const POINT: u64 = 11;
const MARGIN: usize = 40;
const STROKE: usize = 6;
const MARK: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_the_mark_and_the_flash_move_and_the_bars_do_not() {
        let mut pattern = Pattern::default();
        let one = pattern.draw(1_234).map(<[u8]>::to_vec);
        let other = pattern.draw(1_034).map(<[u8]>::to_vec);
        let differ =
            |from: usize, to: usize| one[0][from * WIDTH..to * WIDTH] != other[0][from * WIDTH..to * WIDTH];
        assert!(!differ(0, HEIGHT * 2 / 3));
        assert!(differ(HEIGHT * 2 / 3, HEIGHT * 2 / 3 + 8), "the mark");
        assert!(differ(HEIGHT * 2 / 3 + 8, HEIGHT), "the clock or the flash");
        assert_eq!(one, pattern.draw(1_234).map(<[u8]>::to_vec));
    }

    #[test]
    fn every_time_fits_into_the_picture() {
        let mut pattern = Pattern::default();
        for milliseconds in [0, 999, 86_399_999, u64::MAX] {
            pattern.draw(milliseconds);
        }
    }
}
