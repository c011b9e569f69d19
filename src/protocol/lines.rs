use bytes::Bytes; /// x
pub fn single_line(t:&Bytes)->Bytes{t.clone()}
